package client

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// statusHeader tells who uses a key that its time is running out, as rekey's own gateway does.
const statusHeader = "Rekey-Key-Status"

func graceStatus(v Verdict) string {
	if v.GraceExpiresAt.IsZero() {
		return "grace"
	}
	return "grace; until=" + strconv.FormatInt(v.GraceExpiresAt.Unix(), 10)
}

// denial is how a request is refused.
type denial struct {
	status     int
	reason     string // RFC 6750's word; empty: no key was presented, or the key is not the matter
	title      string
	scopes     []string      // that are needed
	code       Code          // of the verdict; empty: there is none
	retryAfter time.Duration // 0: is not said
}

// denialOf is how a verdict that is not valid is answered. One that is not known here is a no all the same.
func denialOf(v Verdict, scopes []string) *denial {
	d := &denial{status: http.StatusForbidden, reason: "insufficient_scope", title: "The key may not be used for this", code: v.Code}
	switch v.Code {
	case CodeNotFound, CodeRevoked, CodeExpired, CodeGraceExpired, CodeDisabled:
		// Which of these it is, is told to nobody: whoever holds a key that has ended may have found it.
		d.status, d.reason, d.title, d.code = http.StatusUnauthorized, "invalid_token", "The key is not valid", CodeNotFound
	case CodeInsufficientScope:
		d.title, d.scopes = "The key lacks a scope", scopes
	case CodeIPDenied:
		d.reason, d.title = "", "The key may not be used from this address"
	case CodeRateLimited, CodeUsageExceeded:
		d.status, d.reason, d.title = http.StatusTooManyRequests, "", "The key is used too much"
		d.retryAfter = time.Duration(v.RetryAfterSeconds) * time.Second
	}
	return d
}

// refuse answers with a problem document.
func (g *Gate) refuse(w http.ResponseWriter, d denial) {
	h := w.Header()
	if d.status == http.StatusUnauthorized || d.reason != "" {
		h.Set("WWW-Authenticate", g.challenge(d))
	}
	if d.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((d.retryAfter+time.Second-1)/time.Second), 10))
	}
	body := map[string]any{"type": "about:blank", "title": d.title, "status": d.status}
	if d.code != "" {
		body["code"] = d.code
	}
	if len(d.scopes) > 0 {
		body["details"] = map[string]string{"required_scope": strings.Join(d.scopes, " ")}
	}
	raw, err := json.Marshal(body)
	if err != nil { // texts and numbers always encode
		panic("client: encode: " + err.Error())
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	w.WriteHeader(d.status)
	_, _ = w.Write(append(raw, '\n')) // who asked may be gone; nothing is left to tell
}

// challenge is RFC 6750's: who presented nothing is told the scheme only.
func (g *Gate) challenge(d denial) string {
	text := `Bearer realm="` + g.realm + `"`
	if d.reason != "" {
		text += `, error="` + d.reason + `"`
	}
	if len(d.scopes) > 0 {
		text += `, scope="` + strings.Join(d.scopes, " ") + `"`
	}
	return text
}

// tokenOnly keeps the characters that a scope may have in a challenge.
func tokenOnly(c rune) rune {
	if c <= ' ' || c > '~' || c == '"' || c == '\\' {
		return -1
	}
	return c
}
