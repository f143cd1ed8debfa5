package domain

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestValidateName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"ci": "ci", "  ci \n": "ci", "Zwölf Boxkämpfer": "Zwölf Boxkämpfer", "鍵🔑": "鍵🔑", "a\u2028b": "a\u2028b",
		strings.Repeat("鍵", MaxNameLength):             strings.Repeat("鍵", MaxNameLength),
		" " + strings.Repeat("a", MaxNameLength) + " ": strings.Repeat("a", MaxNameLength),
	} {
		if got, err := validateName("name", in); err != nil || got != want {
			t.Errorf("name %q becomes %q (%v)", in, got, err)
		}
	}
	for _, bad := range []string{
		"", " ", "\t\n", "\u00a0", strings.Repeat("a", MaxNameLength+1), strings.Repeat("a", 10<<10), "a\x00b", "a\nb", "a\x1b[31mb",
		"a\x7fb", "a\u0085b", "\xff", "a\xc3", "a\xed\xa0\x80b",
	} {
		_, err := validateName("name", bad)
		refused(t, err, CodeValidation, "name")
	}
}

func TestValidateSlug(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"rk", "a", "0", "live", "pre-prod", "a--b", "2026", strings.Repeat("a", 24)} {
		if err := validateSlug("brand", good); err != nil {
			t.Errorf("%q is refused: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-", "-a", "a-", "A", "a_b", "a b", "a.b", "é", "a\x00", "\xff", " a", "a\n", strings.Repeat("a", 25)} {
		refused(t, validateSlug("brand", bad), CodeValidation, "brand")
	}
}

func TestValidateReason(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", "left the company", strings.Repeat("é", 500)} {
		if err := validateReason(good); err != nil {
			t.Errorf("%.20q is refused: %v", good, err)
		}
	}
	for _, bad := range []string{strings.Repeat("é", 501), "a\x00", "a\nb", "\xff"} {
		refused(t, validateReason(bad), CodeValidation, "reason")
	}
}

func TestValidateResources(t *testing.T) {
	t.Parallel()
	kinds := func(n int) Resources {
		r := Resources{}
		for i := range n {
			r[fmt.Sprintf("kind%d", i)] = []string{"a"}
		}
		return r
	}
	names := func(n int) Resources {
		r := Resources{"app": nil}
		for i := range n {
			r["app"] = append(r["app"], fmt.Sprintf("app%d", i))
		}
		return r
	}
	for _, good := range []Resources{
		nil, {}, {"app": {}}, {"app": {"com.demo.app", "日本"}, "my_kind": {"x"}, "my-kind": {"*"}}, kinds(MaxResourceKinds), names(MaxResourceNames),
		{"app": {strings.Repeat("a", 256)}},
	} {
		if got, err := validateResources("resources", good); err != nil {
			t.Errorf("%v is refused: %v", good, err)
		} else {
			same(t, "resources", got, good)
		}
	}
	for _, c := range []struct {
		field string
		bad   Resources
	}{
		{"resources", kinds(MaxResourceKinds + 1)},
		{"resources", Resources{"": {"a"}}},
		{"resources", Resources{"App": {"a"}}},
		{"resources", Resources{"_app": {"a"}}},
		{"resources", Resources{"a.b": {"a"}}},
		{"resources", Resources{"a\x00": {"a"}}},
		{"resources", Resources{strings.Repeat("a", 25): {"a"}}},
		{"resources.app", names(MaxResourceNames + 1)},
		{"resources.app", Resources{"app": {"ok", ""}}},
		{"resources.app", Resources{"app": {"a\x00b"}}},
		{"resources.app", Resources{"app": {"a\nb"}}},
		{"resources.app", Resources{"app": {"\xff"}}},
		{"resources.app", Resources{"app": {strings.Repeat("a", 257)}}},
	} {
		_, err := validateResources("resources", c.bad)
		refused(t, err, CodeValidation, c.field)
	}
}

func nested(levels int, leaf string) string {
	return strings.Repeat(`{"a":`, levels) + leaf + strings.Repeat("}", levels)
}

func TestValidateMetadata(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in, want string
	}{
		{"NothingStaysNothing", ``, ``},
		{"NullIsNothing", `null`, ``},
		{"NullAmongSpacesIsNothing", " null\n", ``},
		{"AnEmptyObjectIsNothing", ` { } `, ``},
		{"KeysAreSortedAndSpacesGo", "{ \"b\" : 1,\n\"a\" : [ true , null ] }", `{"a":[true,null],"b":1}`},
		{"TheLastOfEqualKeysCounts", `{"a":1,"a":2}`, `{"a":2}`},
		{"NumbersKeepTheirDigits", `{"a":12345678901234567890.5,"b":1.0,"c":1E5,"d":-0}`, `{"a":12345678901234567890.5,"b":1.0,"c":1E5,"d":-0}`},
		{"LargeNumbersStay", `{"a":1e308,"b":1e-323,"c":0e1000}`, `{"a":1e308,"b":1e-323,"c":0e1000}`},
		{"EscapesAreResolved", `{"\u0061":"\u00e9\/"}`, `{"a":"é/"}`},
		{"MarkupIsEscaped", `{"a":"<b>&"}`, `{"a":"\u003cb\u003e\u0026"}`},
		{"ControlCharactersStayEscaped", `{"a":"\u0001\n"}`, `{"a":"\u0001\n"}`},
		{"EightLevelsAreFine", nested(8, `1`), nested(8, `1`)},
		{"ListsCountAsLevels", `{"a":` + strings.Repeat("[", 7) + strings.Repeat("]", 7) + `}`, `{"a":[[[[[[[]]]]]]]}`},
		{"FourKilobytesAreFine", `{"a":"` + strings.Repeat("x", MaxMetadataBytes-8) + `"}`, `{"a":"` + strings.Repeat("x", MaxMetadataBytes-8) + `"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := validateMetadata("metadata", json.RawMessage(c.in))
			if err != nil || string(got) != c.want {
				t.Fatalf("%s becomes %s (%v)", c.in, got, err)
			}
			if c.want == "" && got != nil {
				t.Fatalf("%s becomes %q, not nil", c.in, got)
			}
		})
	}
	for _, c := range []struct{ name, in string }{
		{"RefusesAList", `[1]`},
		{"RefusesAString", `"a"`},
		{"RefusesANumber", `1`},
		{"RefusesTrue", `true`},
		{"RefusesSpacesOnly", ` `},
		{"RefusesBrokenJSON", `{"a":`},
		{"RefusesASecondValue", `{"a":1}{"b":2}`},
		{"RefusesGarbageBehindTheObject", `{"a":1} x`},
		{"RefusesAByteOrderMark", "\ufeff{}"},
		{"RefusesNULInAValue", `{"a":"x\u0000y"}`},
		{"RefusesNULInAKey", `{"a\u0000":1}`},
		{"RefusesNULDeepInside", `{"a":[{"b":["\u0000"]}]}`},
		{"RefusesARawNUL", "{\"a\":\"\x00\"}"},
		{"RefusesInvalidUTF8", "{\"a\":\"\xff\"}"},
		{"RefusesInvalidUTF8InAKey", "{\"\xc3\":1}"},
		{"RefusesNineLevels", nested(9, `1`)},
		{"RefusesThousandsOfLevels", nested(500, `1`)},
		{"RefusesHugeNumbers", `{"a":1e309}`},
		{"RefusesHugeNegativeNumbers", `{"a":[-1e999]}`},
		{"RefusesNumbersOfThousandsOfDigits", `{"a":` + strings.Repeat("9", 4000) + `}`},
		{"RefusesTinyNumbersThatPostgresCannotStore", `{"a":1e-20000}`},
		{"RefusesZeroesThatPostgresCannotStore", `{"a":0e-20000}`},
		{"RefusesExponentsOfManyDigits", `{"a":0E+99999999999999999999}`},
		{"RefusesFourKilobytesAndOne", `{"a":"` + strings.Repeat("x", MaxMetadataBytes-7) + `"}`},
		{"RefusesWhatGrowsOverFourKilobytes", `{"a":"` + strings.Repeat("<", 1000) + `"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := validateMetadata("metadata", json.RawMessage(c.in))
			if refused(t, err, CodeValidation, "metadata"); got != nil {
				t.Fatalf("a refusal came with %s", got)
			}
		})
	}
}

func drawJSON(t *rapid.T, depth int) any {
	kinds := 5
	if depth > 9 {
		kinds = 3
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rapid.String().Draw(t, "string")
	case 1:
		return json.Number(rapid.StringMatching(`-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?`).Draw(t, "number"))
	case 2:
		return rapid.SampledFrom([]any{nil, true, false}).Draw(t, "word")
	case 3:
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) any { return drawJSON(t, depth+1) }), 0, 3).Draw(t, "list")
	default:
		return drawObject(t, depth)
	}
}

func drawObject(t *rapid.T, depth int) map[string]any {
	return rapid.MapOfN(rapid.String(), rapid.Custom(func(t *rapid.T) any { return drawJSON(t, depth+1) }), 0, 3).Draw(t, "object")
}

// What was accepted once is accepted again and does not change: each edit of a key validates all its settings anew, and
// what is stored goes through JSON on the way.
func TestValidateMetadataIsStable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(drawObject(t, 0))
		if err != nil {
			t.Fatal(err)
		}
		once, err := validateMetadata("metadata", raw)
		if err != nil || once == nil {
			return
		}
		stored, err := json.Marshal(Settings{Metadata: once})
		if err != nil {
			t.Fatal(err)
		}
		var settings Settings
		if err := json.Unmarshal(stored, &settings); err != nil {
			t.Fatal(err)
		}
		if twice, err := validateMetadata("metadata", settings.Metadata); err != nil || string(twice) != string(once) {
			t.Fatalf("%s becomes %s, and that becomes %s (%v)", raw, once, twice, err)
		}
	})
}
