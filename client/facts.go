package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/rekeyhq/rekey/domain"
)

// KeyID names one key. It is kept in its sixteen bytes, so that a Verdict costs no allocation; String is how rekey's API
// writes it, key_ and 26 characters.
type KeyID [16]byte

// LineageID names a key and all its successors, lin_ and 26 characters.
type LineageID [16]byte

// IsZero reports whether it names nothing.
func (id KeyID) IsZero() bool { return id == KeyID{} }

// IsZero reports whether it names nothing.
func (id LineageID) IsZero() bool { return id == LineageID{} }

// String writes the id; nothing for the zero one.
func (id KeyID) String() string { return written(domain.PrefixKey, id) }

// String writes the id; nothing for the zero one.
func (id LineageID) String() string { return written(domain.PrefixLineage, id) }

// MarshalText writes the id.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText writes the id.
func (id LineageID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads an id; nothing is the zero one.
func (id *KeyID) UnmarshalText(text []byte) (err error) {
	*id, err = read[KeyID](domain.PrefixKey, text)
	return err
}

// UnmarshalText reads an id; nothing is the zero one.
func (id *LineageID) UnmarshalText(text []byte) (err error) {
	*id, err = read[LineageID](domain.PrefixLineage, text)
	return err
}

func written[T ~[16]byte](prefix string, id T) string {
	if domain.UUID(id) == (domain.UUID{}) {
		return ""
	}
	return domain.UUID(id).ID(prefix)
}

// read does not repeat what it cannot read: it could be a secret that was put in the wrong place.
func read[T ~[16]byte](prefix string, text []byte) (T, error) {
	if len(text) == 0 {
		return T{}, nil
	}
	id, ok := domain.UUIDOf(prefix, string(text))
	if !ok {
		return T{}, fmt.Errorf("read id: it is not %s_ and 26 characters", prefix)
	}
	return T(id), nil
}

// Scopes are what a key may do. They cannot be changed, because keys with the same ones may share them.
type Scopes struct{ names []string }

// ScopesOf makes Scopes of names, which nobody may change from then on.
func ScopesOf(names []string) Scopes { return Scopes{names} }

// Allow reports whether they grant a scope: by its name, by a pattern such as orders:*, or by *.
func (s Scopes) Allow(scope string) bool { return domain.Scopes(s.names).Allow(scope) }

// List returns the names.
func (s Scopes) List() []string { return slices.Clone(s.names) }

// Equal reports whether both have the same names in the same order.
func (s Scopes) Equal(other Scopes) bool { return slices.Equal(s.names, other.names) }

// MarshalJSON writes a list.
func (s Scopes) MarshalJSON() ([]byte, error) {
	if s.names == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(s.names)
}

// UnmarshalJSON reads a list.
func (s *Scopes) UnmarshalJSON(raw []byte) error { return json.Unmarshal(raw, &s.names) }

// Metadata is the JSON object that the key's owner has put to it; empty: none.
type Metadata string

// Decode reads the object into a value, as json.Unmarshal does; where there is none the value stays as it is.
func (m Metadata) Decode(into any) error {
	if m == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(m), into); err != nil {
		return fmt.Errorf("decode metadata: %w", err)
	}
	return nil
}

// MarshalJSON writes the object.
func (m Metadata) MarshalJSON() ([]byte, error) {
	if m == "" {
		return []byte("null"), nil
	}
	return []byte(m), nil
}

// UnmarshalJSON takes the object as it is.
func (m *Metadata) UnmarshalJSON(raw []byte) error {
	if bytes.Equal(raw, []byte("null")) {
		raw = nil
	}
	*m = Metadata(raw)
	return nil
}
