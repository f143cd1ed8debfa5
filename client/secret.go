package client

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"unsafe"
)

// redacted is what a secret shows of itself.
const redacted = "[redacted]"

// Secret is the plaintext of a key. Only Reveal returns it; every other way of printing shows [redacted].
//
// It points to the text, because package fmt asks no method of a value in an unexported field and prints what it is made
// of: then that is an address. It points to the text's bytes and not to a string, so that a Secret costs no allocation.
type Secret struct {
	text   *byte
	length int
}

// NewSecret takes what was presented, whatever it is.
func NewSecret(text string) Secret { return Secret{unsafe.StringData(text), len(text)} }

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.length == 0 }

// Reveal returns the plaintext, for whoever judges it.
func (s Secret) Reveal() string { return unsafe.String(s.text, s.length) }

// String redacts.
func (s Secret) String() string { return redacted }

// GoString redacts %#v.
func (s Secret) GoString() string { return redacted }

// Format redacts every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue redacts in structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts in JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// MarshalText redacts in everything that takes text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
