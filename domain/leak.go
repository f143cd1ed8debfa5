package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ActorLeak is who acts on a report of a leak. Whoever reports one holds no key that could be named.
const ActorLeak Actor = "system:leak"

// TypeLeakReported names LeakReported.
const TypeLeakReported Type = "LeakReported"

// LeakReported records that a secret was found where it should not be, and what was done about it.
type LeakReported struct {
	KeyID  KeyID      `json:"key_id"`
	Source string     `json:"source"`        // who found it, and in what
	URL    string     `json:"url,omitempty"` // where, if that could be told without telling the secret
	Action LeakAction `json:"action"`
}

// Type returns the stable name.
func (LeakReported) Type() Type { return TypeLeakReported }

// MaxLeaks bounds how many places a key's leak is recorded from. Reports are open to everybody who has the secret, and one
// is enough to act on; without a bound they could fill the log.
const MaxLeaks = 16

// ReportLeak says that the secret of a key was found.
type ReportLeak struct {
	KeyID  KeyID
	Source string     // a short name; any other text becomes "unknown"
	URL    string     // made by LeakURL
	Action LeakAction // of the project's policy; none means LeakRevoke
}

// ReportLeak decides what follows from a leak: it is recorded, and the key is revoked unless the project only wants to be
// told. A key that has ended can do no harm, and a place that is recorded needs no second record: then nothing is decided.
func (l *Lineage) ReportLeak(c ReportLeak, now time.Time) ([]Decided, error) {
	g := l.Generation(c.KeyID)
	if g == nil || !l.StatusAt(g, now).Valid() {
		return nil, nil
	}
	reported := LeakReported{KeyID: c.KeyID, Source: leakSource(c.Source), URL: c.URL, Action: LeakRevoke}
	if c.Action == LeakNotify {
		if len(g.Leaks) >= MaxLeaks || slices.Contains(g.Leaks, leakMark(c.URL)) {
			return nil, nil
		}
		reported.Action = LeakNotify
		return []Decided{l.decided(reported)}, nil
	}
	revoked, err := l.Revoke(c.KeyID, "leaked", now)
	return append([]Decided{l.decided(reported)}, revoked...), err
}

// leakMark stands for a place in the state of a lineage, which need not hold whole addresses.
func leakMark(place string) string {
	sum := sha256.Sum256([]byte(place))
	return hex.EncodeToString(sum[:8])
}

const (
	maxLeakSource = 40
	maxLeakURL    = 1000
)

// leakSource lets only short names through: what comes from outside could hold anything.
func leakSource(name string) string {
	if name == "" || len(name) > maxLeakSource || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return "unknown"
	}
	return name
}

// LeakURL is what may be kept of the place where a secret was found: a web address without credentials, query and fragment.
// It is empty if there is no such address, or if the address tells a secret: this one, or any that looks like ours.
func LeakURL(raw string, secret Secret) string {
	if len(raw) > maxLeakURL {
		return ""
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return ""
	}
	place := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
	for i := range len(place) {
		if place[i] <= ' ' || place[i] >= 0x7f {
			return ""
		}
	}
	if len(place) > maxLeakURL || tellsSecret(place, secret.Reveal()) {
		return ""
	}
	return place
}

// ourTail is how every secret of our form ends.
var ourTail = regexp.MustCompile(`_[0-9A-Za-z]{39}`)

// tellsSecret reports whether an address contains a secret or enough of it to matter, however often it is escaped.
func tellsSecret(place, secret string) bool {
	const deepest = 4
	for range deepest {
		if ourTail.MatchString(place) || sharesRun(place, secret) {
			return true
		}
		plain, err := url.PathUnescape(place)
		if err != nil {
			return true // what is left may be half escaped
		}
		if plain == place {
			return false
		}
		place = plain
	}
	return true // nobody escapes an honest address this often
}

// sharesRun reports whether the text has a dozen characters in a row of the random part of a secret, in any case. Of a
// secret in another form any part may be the random one.
func sharesRun(text, secret string) bool {
	const run = 12
	if isOurForm(secret) {
		secret = secret[len(secret)-secretTailLength:]
	}
	text, secret = strings.ToLower(text), strings.ToLower(secret)
	for i := 0; i+run <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+run]) {
			return true
		}
	}
	return false
}
