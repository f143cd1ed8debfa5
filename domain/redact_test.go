package domain

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"
)

// holder is how a secret gets into a log by accident: deep inside something else.
type holder struct {
	Secret  Secret
	Pointer *Secret
	List    []Secret
	Map     map[string]Secret
	Any     any
	private Secret
	inner   struct{ secret *Secret }
}

func holding(s Secret) holder {
	h := holder{Secret: s, Pointer: &s, List: []Secret{s}, Map: map[string]Secret{"k": s}, Any: s, private: s}
	h.inner.secret = &s
	return h
}

// carrier is an error with a secret in it.
type carrier struct{ secret Secret }

func (c carrier) Error() string { return fmt.Sprintf("bad key %v", c.secret) }

// leaks fails if output holds any run of eight characters of the secret that may not be shown, in plain or hexadecimal.
func leaks(t *testing.T, how, output string, s Secret) {
	t.Helper()
	text := s.Reveal()
	for i := len(text) - secretTailLength; i+8 <= len(text); i++ {
		part := text[i : i+8]
		hexadecimal := fmt.Sprintf("%x", part)
		if strings.Contains(output, part) || strings.Contains(strings.ToLower(output), hexadecimal) {
			t.Fatalf("%s shows the secret: %s", how, output)
		}
	}
}

// TestG5SecretIsNeverPrinted: whatever package fmt, log/slog and the encoders of the standard library are given, and
// however wrongly, the plaintext does not come out.
func TestG5SecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	s := mint(t, 1, "rk", "live")

	t.Run("ByVerbsOfFmt", func(t *testing.T) {
		t.Parallel()
		for _, verb := range strings.Fields("%v %+v %#v %s %q %#q %x %X %#x %d %t %c %U %e %b %o %p %w %z %20s %-60v %.3s %T") {
			for name, value := range map[string]any{
				"value": s, "pointer": &s, "struct": holding(s), "pointer to struct": new(holding(s)),
				"list": []Secret{s}, "array": [1]Secret{s}, "map": map[string]Secret{"k": s}, "any": []any{s, &s},
			} {
				leaks(t, verb+" of a "+name, fmt.Sprintf(verb, value), s)
				leaks(t, verb+" of an error with a "+name, fmt.Errorf("x: "+verb, value).Error(), s)
			}
		}
		format := strings.TrimSpace("done ") // not a constant, or the linters would see the mistake
		leaks(t, "a superfluous argument", fmt.Sprintf(format, s), s)
		leaks(t, "Sprint", fmt.Sprint(s, &s, holding(s)), s)
	})

	t.Run("ButSaysThatItIsRedacted", func(t *testing.T) {
		t.Parallel()
		for _, verb := range strings.Fields("%v %+v %#v %s %q %x %d") {
			if got := fmt.Sprintf(verb, s); got != redacted {
				t.Errorf("%s prints %s", verb, got)
			}
			if got := fmt.Sprintf(verb, &s); got != redacted {
				t.Errorf("%s of a pointer prints %s", verb, got)
			}
		}
		if got := fmt.Sprint(s.String(), s.GoString(), Secret{}); got != redacted+redacted+redacted && got != redacted+" "+redacted+" "+redacted {
			t.Errorf("printed %s", got)
		}
	})

	t.Run("BySlog", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		options := &slog.HandlerOptions{Level: slog.LevelDebug}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, options), slog.NewJSONHandler(&out, options)} {
			log := slog.New(handler)
			log.Info("created", "secret", s, "pointer", &s, "holder", holding(s), "list", []Secret{s}, "error", carrier{s})
			log.With("secret", s).WithGroup("g").Debug("again", slog.Any("secret", s), slog.Group("in", "secret", s))
		}
		leaks(t, "slog", out.String(), s)
		if n := strings.Count(out.String(), redacted); n < 10 {
			t.Fatalf("%d values are redacted in\n%s", n, out.String())
		}
	})

	t.Run("ByEncoders", func(t *testing.T) {
		t.Parallel()
		for name, value := range map[string]any{"value": s, "pointer": &s, "holder": holding(s), "key of a map": map[string]any{"k": s}} {
			raw, err := json.Marshal(value)
			if err != nil || !bytes.Contains(raw, []byte(redacted)) {
				t.Fatalf("%s is %s (%v)", name, raw, err)
			}
			leaks(t, "JSON of a "+name, string(raw), s)
		}
		raw, _ := xml.Marshal(s)
		leaks(t, "XML", string(raw), s)
		var out bytes.Buffer
		if err := gob.NewEncoder(&out).Encode(s); err == nil {
			t.Error("gob encoded a secret")
		}
		if err := template.Must(template.New("").Parse("{{.Secret}} {{printf \"%q\" .Secret}} {{.}}")).Execute(&out, holding(s)); err != nil {
			t.Error(err)
		}
		leaks(t, "gob and template", out.String(), s)
		text, err := s.MarshalText()
		if err != nil || string(text) != redacted {
			t.Errorf("text is %s (%v)", text, err)
		}
	})

	t.Run("ByErrors", func(t *testing.T) {
		t.Parallel()
		err := Refuse(CodeInternal, "cannot use %v", s).WithCause(errors.Join(carrier{s}, fmt.Errorf("wrapped: %w", carrier{s}))).With("key", s)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			leaks(t, "an error with "+verb, fmt.Sprintf(verb, err), s)
		}
		raw, marshalErr := json.Marshal(err)
		if marshalErr != nil {
			t.Fatal(marshalErr)
		}
		leaks(t, "an error as JSON", string(raw), s)
	})

	t.Run("ByWhatIsKept", func(t *testing.T) {
		t.Parallel()
		raw, _, err := Encode(Created{SecretFacts: FactsOf(s)})
		if err != nil {
			t.Fatal(err)
		}
		leaks(t, "an event", string(raw), s)
	})
}
