package surface_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rekeyhq/rekey/api/surface"
)

// FuzzDecodeJSON compares our reading of a body with the standard library's: what we take it takes too and means the same,
// and what we alone refuse has a reason.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{
		`{"a":1}`, `{"a":{"a":[{"a":"\""},{"a":null}]},"b":"a"}`, `[[],{},"{\"a\":1,\"a\":2}"]`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`,
		`{"\\":1,"\\\\":2}`, `"\ud800"`, `{"a":"}{][,:"}`, ` { } `, `{"a":1}x`, `{`, `{"":[],"":[]}`, "\xff", `"` + "\xff" + `"`, `1e999`,
		strings.Repeat("[", 20) + strings.Repeat("]", 20), strings.Repeat("[", 21) + strings.Repeat("]", 21),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var ours, theirs any
		err, standard := surface.DecodeJSON(data, &ours), json.Unmarshal(data, &theirs)
		switch {
		case err == nil && (standard != nil || !reflect.DeepEqual(ours, theirs)):
			t.Errorf("%q: read as %v, by the standard library as %v, %v", data, ours, theirs, standard)
		case err != nil && standard == nil && utf8.Valid(data) && !repeats(data) && depth(theirs) <= 20:
			t.Errorf("%q is refused: %v", data, err)
		case err != nil && len(data) > 8 && strings.Contains(err.Error(), string(data)):
			t.Errorf("%q is repeated: %v", data, err)
		}
	})
}

// repeats finds a name twice in one object, by the standard library's own tokens.
func repeats(data []byte) bool {
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	var value func() bool
	value = func() bool {
		token, err := decoder.Token()
		if err != nil {
			return false
		}
		again, names := false, map[any]bool{}
		switch token {
		case json.Delim('{'):
			for decoder.More() {
				name, _ := decoder.Token()
				again = again || names[name]
				names[name] = true
				again = value() || again
			}
			_, _ = decoder.Token()
		case json.Delim('['):
			for decoder.More() {
				again = value() || again
			}
			_, _ = decoder.Token()
		}
		return again
	}
	return value()
}

func depth(value any) int {
	deepest := 0
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			deepest = max(deepest, depth(item))
		}
	case map[string]any:
		for _, item := range value {
			deepest = max(deepest, depth(item))
		}
	default:
		return 0
	}
	return deepest + 1
}
