package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The headers of a signed message.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

const (
	// The versions of signatures: HMAC-SHA256 by a shared secret, and ed25519.
	versionShared, versionPublic = "v1", "v1a"

	// A receiver tries this many v1a entries: each costs a curve operation, and nobody who is honest sends more.
	maxPublicEntries = 16

	// Tolerance is how far the time of an attempt may lie from the receiver's clock, before or after.
	Tolerance = 5 * time.Minute

	// Eleven digits of seconds reach the year 5138. The limit keeps arithmetic on hostile timestamps from overflowing.
	maxTimestampDigits = 11
	maxIDLength        = 256
)

// What Verify finds wrong.
var (
	ErrMissingHeader       = errors.New("webhook header is missing or there more than once")
	ErrMalformedID         = errors.New("webhook-id is malformed")
	ErrMalformedTimestamp  = errors.New("webhook-timestamp is malformed")
	ErrTimestampTooOld     = errors.New("webhook-timestamp is too far in the past")
	ErrTimestampTooNew     = errors.New("webhook-timestamp is too far in the future")
	ErrNoSecret            = errors.New("no signing secret to verify with")
	ErrNoMatchingSignature = errors.New("no signature matches")
)

// Sign gives the value of the webhook-signature header: one entry for each secret in the order given (newest first,
// while a secret is being replaced), v1 or v1a by its kind, with exactly one space between two, since not every
// receiver's library forgives more. Zero secrets are left out; without any the result is empty.
func Sign(id string, at time.Time, body []byte, secrets ...Secret) string {
	timestamp := unixSeconds(at)
	entries := make([]string, 0, len(secrets))
	for _, secret := range secrets {
		switch {
		case secret.IsZero():
		case secret.asymmetric:
			signature := ed25519.Sign(secret.key(), signedContent(id, timestamp, body))
			entries = append(entries, versionPublic+","+base64.StdEncoding.EncodeToString(signature))
		default:
			entries = append(entries, versionShared+","+mac(secret, id, timestamp, body))
		}
	}
	return strings.Join(entries, " ")
}

// Headers gives what a signed message carries on any transport: id, time of this attempt, signature, content type.
func Headers(id string, at time.Time, body []byte, secrets ...Secret) http.Header {
	h := make(http.Header, 8)
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, unixSeconds(at))
	h.Set(HeaderSignature, Sign(id, at, body, secrets...))
	h.Set("Content-Type", "application/json")
	return h
}

// Verify says whether one of the secrets signed this body under these headers, at most Tolerance away from now. Entries
// of versions that no secret is for are skipped. The time it takes does not depend on how much of a signature is right.
func Verify(h http.Header, body []byte, now time.Time, secrets ...Secret) error {
	var public []PublicKey
	for _, secret := range secrets {
		if key, ok := secret.PublicKey(); ok {
			public = append(public, key)
		}
	}
	return verify(h, body, now, secrets, public)
}

func verify(h http.Header, body []byte, now time.Time, secrets []Secret, public []PublicKey) error {
	id, timestamp, signatures, err := signedHeaders(h)
	if err != nil {
		return err
	}
	at, err := parseTimestamp(timestamp)
	if err != nil {
		return err
	}
	// The signature comes before the clock, so that nobody without a secret learns how far ours is off.
	if err := matchSignature(id, timestamp, body, signatures, secrets, public); err != nil {
		return err
	}
	switch {
	case at.Before(now.Add(-Tolerance)):
		return ErrTimestampTooOld
	case at.After(now.Add(Tolerance)):
		return ErrTimestampTooNew
	}
	return nil
}

func signedHeaders(h http.Header) (id, timestamp, signatures string, err error) {
	for _, name := range []string{HeaderID, HeaderTimestamp, HeaderSignature} {
		// A second value would let two readers of one message disagree on which counts.
		if values := h.Values(name); len(values) != 1 || values[0] == "" {
			return "", "", "", ErrMissingHeader
		}
	}
	id = h.Get(HeaderID)
	if !validID(id) {
		return "", "", "", ErrMalformedID
	}
	return id, h.Get(HeaderTimestamp), h.Get(HeaderSignature), nil
}

func matchSignature(id, timestamp string, body []byte, signatures string, secrets []Secret, public []PublicKey) error {
	shared := make([][]byte, 0, len(secrets))
	for _, secret := range secrets {
		if !secret.IsZero() && !secret.asymmetric {
			shared = append(shared, []byte(mac(secret, id, timestamp, body)))
		}
	}
	public = slices.DeleteFunc(slices.Clone(public), func(key PublicKey) bool { return !key.set })
	if len(shared)+len(public) == 0 {
		return ErrNoSecret
	}
	content := signedContent(id, timestamp, body)
	matched, tried := false, 0
	for entry := range strings.SplitSeq(signatures, " ") {
		version, signature, _ := strings.Cut(entry, ",")
		switch version {
		case versionShared:
			for _, want := range shared {
				// No early return: the work is the same whichever entry and secret match.
				matched = hmac.Equal([]byte(signature), want) || matched
			}
		case versionPublic:
			if tried++; tried > maxPublicEntries {
				continue
			}
			for _, key := range public {
				matched = key.signed(content, signature) || matched
			}
		}
	}
	if !matched {
		return ErrNoMatchingSignature
	}
	return nil
}

// signedContent is what every signature is over.
func signedContent(id, timestamp string, body []byte) []byte {
	return slices.Concat([]byte(id), []byte{'.'}, []byte(timestamp), []byte{'.'}, body)
}

// mac is the base64 HMAC-SHA256 over the signed content.
func mac(secret Secret, id, timestamp string, body []byte) string {
	hash := hmac.New(sha256.New, secret.key())
	hash.Write([]byte(id))
	hash.Write([]byte{'.'})
	hash.Write([]byte(timestamp))
	hash.Write([]byte{'.'})
	hash.Write(body)
	return base64.StdEncoding.EncodeToString(hash.Sum(nil))
}

// validID keeps to printable ASCII without the full stop, which separates the signed parts: with one in the id, two
// different messages could have the same signed content.
func validID(id string) bool {
	if id == "" || len(id) > maxIDLength {
		return false
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' || c == '.' {
			return false
		}
	}
	return true
}

func unixSeconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// parseTimestamp takes plain decimal seconds in their one spelling: no sign, no leading zero.
func parseTimestamp(s string) (time.Time, error) {
	if len(s) > maxTimestampDigits {
		return time.Time{}, ErrMalformedTimestamp
	}
	seconds, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(seconds, 10) != s {
		return time.Time{}, ErrMalformedTimestamp
	}
	return time.Unix(int64(seconds), 0), nil
}
