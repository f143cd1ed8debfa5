package domain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what a request may carry.
const (
	MaxNameLength     = 200
	MaxMetadataBytes  = 4096
	MaxResourceKinds  = 16
	MaxResourceNames  = 256
	maxMetadataDepth  = 8
	maxResourceLength = 256
	maxSlugLength     = 24
	maxReasonLength   = 500
	maxNumberExponent = 1000
)

// validateName accepts what a person can read in a list: not empty, not huge, no control characters.
func validateName(field, name string) (string, error) {
	trimmed := strings.TrimSpace(name)
	switch {
	case trimmed == "":
		return "", InvalidField(field, "is empty", "give it a name of 1 to 200 characters")
	case utf8.RuneCountInString(trimmed) > MaxNameLength:
		return "", InvalidField(field, fmt.Sprintf("is longer than %d characters", MaxNameLength), "shorten it; details belong in metadata")
	case !printable(trimmed):
		return "", InvalidField(field, "contains control characters or invalid UTF-8", "use printable characters only")
	}
	return trimmed, nil
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, unicode.IsControl) < 0
}

// validSlug accepts brands and environment names: they stand inside secrets, between underscores.
func validSlug(s string) bool {
	if s == "" || len(s) > maxSlugLength || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func validateSlug(field, s string) error {
	if !validSlug(s) {
		return InvalidField(field, "is not a short lower-case name", "use 1 to 24 of a-z, 0-9 and inner hyphens")
	}
	return nil
}

func validateReason(reason string) error {
	if utf8.RuneCountInString(reason) > maxReasonLength || !printable(reason) {
		return InvalidField("reason", "is too long or contains control characters", "use at most 500 printable characters")
	}
	return nil
}

func validateResources(field string, r Resources) (Resources, error) {
	if len(r) == 0 {
		return nil, nil
	}
	if len(r) > MaxResourceKinds {
		return nil, InvalidField(field, "names too many kinds", fmt.Sprintf("name at most %d kinds", MaxResourceKinds))
	}
	for kind, names := range r {
		at := field + "." + kind
		if !validSlug(strings.ReplaceAll(kind, "_", "-")) {
			return nil, InvalidField(field, "has a kind that is not a short lower-case name", "use 1 to 24 of a-z, 0-9, - and _")
		}
		if len(names) > MaxResourceNames {
			return nil, InvalidField(at, "names too many resources", fmt.Sprintf("name at most %d", MaxResourceNames))
		}
		for _, name := range names {
			if name == "" || len(name) > maxResourceLength || !printable(name) {
				return nil, InvalidField(at, "has an empty, overlong or unprintable name", "use 1 to 256 printable characters")
			}
		}
	}
	return r, nil
}

// validateMetadata returns the object in one canonical form (keys sorted, no spaces), or nil for none. It refuses what
// Postgres could not store, so that a bad value is the caller's clear error and not ours.
func validateMetadata(field string, raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if len(raw) > MaxMetadataBytes {
		return nil, metadataTooLarge(field)
	}
	if !utf8.Valid(raw) { // the decoder would replace it in silence
		return nil, InvalidField(field, "contains invalid UTF-8", "send UTF-8 text")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil || !json.Valid(raw) { // the decoder stops after the first value
		return nil, InvalidField(field, "is not a JSON object", `send an object such as {"team":"billing"}`)
	}
	if problem := storableJSON(object, 0); problem != "" {
		return nil, InvalidField(field, problem, "use plain strings, numbers, booleans, lists and objects")
	}
	if len(object) == 0 {
		return nil, nil
	}
	canonical, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	if len(canonical) > MaxMetadataBytes { // < > & grow to six bytes; what is stored must pass again at the next edit
		return nil, metadataTooLarge(field)
	}
	return canonical, nil
}

func metadataTooLarge(field string) *Error {
	return InvalidField(field, fmt.Sprintf("is larger than %d bytes", MaxMetadataBytes), "keep large data elsewhere and store a reference")
}

// storableJSON names what is wrong with a decoded value, or returns nothing.
func storableJSON(value any, depth int) string {
	if depth > maxMetadataDepth {
		return fmt.Sprintf("is nested deeper than %d levels", maxMetadataDepth)
	}
	switch v := value.(type) {
	case string:
		if strings.ContainsRune(v, 0) {
			return "contains a NUL character"
		}
	case json.Number:
		if !storableNumber(v) {
			return "contains a number out of range"
		}
	case []any:
		for _, item := range v {
			if problem := storableJSON(item, depth+1); problem != "" {
				return problem
			}
		}
	case map[string]any:
		for name, item := range v {
			if strings.ContainsRune(name, 0) {
				return "contains a NUL character"
			}
			if problem := storableJSON(item, depth+1); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// storableNumber bounds a number by the range of a double, and its exponent by the digits that a Postgres numeric keeps
// behind the point: it has no room for 1e-20000, nor for 0e-20000.
func storableNumber(n json.Number) bool {
	if _, err := n.Float64(); err != nil {
		return false
	}
	_, exponent, found := strings.Cut(strings.ToLower(n.String()), "e")
	if !found {
		return true
	}
	e, err := strconv.Atoi(exponent)
	return err == nil && e >= -maxNumberExponent && e <= maxNumberExponent
}
