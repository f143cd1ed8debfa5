package surface

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// bodyFault is what is wrong with a body, in words that repeat nothing of it. Its text is "field: message"; huma keeps
// only the text of a decoder's error, and fieldErrors takes the two apart again.
type bodyFault struct{ field, message string }

// Error is the text.
func (f bodyFault) Error() string { return f.field + ": " + f.message }

// EncodeJSON writes an answer. It leaves < > & as they are: people read the answers, and no browser renders them.
func EncodeJSON(w io.Writer, v any) error {
	switch answer := v.(type) {
	case *replay:
		_, err := w.Write(answer.kept.Body)
		return err
	case *shaped:
		v = answer.shown()
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// decodeJSON reads a request's body. huma calls it twice, first into an any, to validate that: there the text itself is
// checked too.
func decodeJSON(data []byte, v any) error {
	if _, first := v.(*any); first {
		if err := checkJSON(data); err != nil {
			return err
		}
	}
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	field, message := "body", "is not valid JSON"
	if fault, ok := errors.AsType[*json.SyntaxError](err); ok {
		message = fmt.Sprintf("is not valid JSON, as seen at byte %d", fault.Offset)
	}
	if fault, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if message = "has a number that is out of range"; fault.Field != "" {
			// The schema has been checked, but it takes 1.0 and 1e3 for integers.
			field, message = jsonPath(fault.Field), "is not a whole number written without fraction and exponent"
		}
	}
	return bodyFault{field, message}
}

// jsonPath is the decoder's path to a field without the names of embedded structs, which are in Go's case; fields are not.
func jsonPath(path string) string {
	parts := strings.Split(path, ".")
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part != "" && part[0] >= 'A' && part[0] <= 'Z' }), ".")
}

// maxDepth is twice what any request needs: metadata may be nested eight deep.
const maxDepth = 20

// checkJSON refuses what decoders read differently or repair in silence: invalid UTF-8 and repeated names. Where two
// parsers of one text disagree, one of them can be deceived.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return bodyFault{"body", "is not valid UTF-8"}
	}
	if !json.Valid(data) {
		return nil // the decoder says where
	}
	var open []map[string]bool // the names seen in each object that is open; nil for a list
	nameNext := false
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{':
			open, nameNext = append(open, map[string]bool{}), true
		case '[':
			open, nameNext = append(open, nil), false
		case '}', ']':
			open, nameNext = open[:len(open)-1], false
		case ',':
			nameNext = open[len(open)-1] != nil
		case '"':
			end := stringEnd(data, i)
			if nameNext && !addName(open[len(open)-1], data[i:end]) {
				return bodyFault{"body", "names a field twice in one object"}
			}
			i, nameNext = end-1, false
		}
		if len(open) > maxDepth {
			return bodyFault{"body", fmt.Sprintf("is nested deeper than %d levels", maxDepth)}
		}
	}
	return nil
}

// stringEnd returns where the string that begins at start ends in valid JSON.
func stringEnd(data []byte, start int) int {
	for i := start + 1; ; i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// addName reports whether the name is new to its object.
func addName(names map[string]bool, quoted []byte) bool {
	name := string(quoted[1 : len(quoted)-1])
	if bytes.IndexByte(quoted, '\\') >= 0 {
		_ = json.Unmarshal(quoted, &name) // valid, as the whole is
	}
	if names[name] {
		return false
	}
	names[name] = true
	return true
}

// Object is a JSON object that is passed on as it is; nothing is null.
type Object struct{ json.RawMessage }

// Schema says what huma cannot see of raw JSON.
func (Object) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Nullable: true, AdditionalProperties: true}
}

// Resources are names of resources per kind. A kind without a list is refused: it could mean no limit or no access.
type Resources map[string][]string

// Schema says that only the whole may be null.
func (Resources) Schema(huma.Registry) *huma.Schema {
	names := &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString}}
	return &huma.Schema{
		Type: huma.TypeObject, Nullable: true, AdditionalProperties: names,
		Examples: []any{map[string]any{"app": []string{"com.demo.app"}}},
	}
}
