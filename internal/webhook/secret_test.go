package webhook

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

// 48 bytes, standard alphabet, no padding.
func TestNewSecret(t *testing.T) {
	t.Parallel()
	secret := newSecret(t)
	encoded, ok := strings.CutPrefix(secret.Reveal(), "whsec_")
	if !ok || len(encoded) != 64 || strings.Trim(encoded,
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") != "" {
		t.Errorf("secret has the wrong form: %q", secret.Reveal())
	}
	if again := newSecret(t); again.Reveal() == secret.Reveal() {
		t.Error("two secrets are equal")
	}
	if got := parseSecret(t, secret.Reveal()); got.Reveal() != secret.Reveal() {
		t.Error("parsing a secret gives another one")
	}
	if _, err := NewSecret(strings.NewReader("too short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short randomness: got %v", err)
	}
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	text := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, n)) }
	for _, n := range []int{24, 25, 26, 32, 48, 63, 64} {
		if got := parseSecret(t, text(n)); got.Reveal() != text(n) {
			t.Errorf("%d bytes: changed by parsing", n)
		}
	}
	refused := map[string]string{
		"empty": "", "prefix only": "whsec_", "no prefix": text(24)[6:], "other prefix": "whsk_" + text(24)[6:],
		"23 bytes": text(23), "65 bytes": text(65), "huge": text(1 << 20),
		"unpadded": strings.TrimRight(text(25), "="), "URL-safe": strings.ReplaceAll(text(24), "+", "-"),
		"line break": text(24)[:20] + "\n" + text(24)[20:], "trailing newline": text(24) + "\n",
		"space in front": " " + text(24), "NUL": text(24) + "\x00", "upper-case prefix": strings.ToUpper(text(24)),
		"stray bits": "whsec_" + strings.Repeat("A", 32) + "AB==",
	}
	for name, s := range refused {
		_, err := ParseSecret(s)
		if !errors.Is(err, ErrMalformedSecret) {
			t.Errorf("%s: got %v", name, err)
		} else if len(s) > 8 && strings.Contains(err.Error(), s) {
			t.Errorf("%s: the error repeats the text", name)
		}
	}
}

func FuzzParseSecret(f *testing.F) {
	f.Add("")
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\r\n")
	f.Add("whsec_====")
	f.Fuzz(func(t *testing.T, s string) {
		if secret, err := ParseSecret(s); err == nil && secret.Reveal() != s {
			t.Errorf("%q was read as %q", s, secret.Reveal())
		}
	})
}

// A secret must not get out by an accident of printing, in any way that Go code prints things.
func TestSecret_NeverPrints(t *testing.T) {
	t.Parallel()
	secret, key := newSecret(t), PlainSecret("rk_live_canary0123456789")
	type exported struct {
		Secret Secret
		Key    KeySecret
		List   []Secret
		Map    map[string]Secret
	}
	type hidden struct {
		secret Secret
		key    KeySecret
	}
	open := exported{secret, key, []Secret{secret}, map[string]Secret{"a": secret}}
	private := hidden{secret, key}

	request := Request{URL: "https://hooks.example.com/?token=canary", ID: testID, Body: []byte("canary"), Secrets: []Secret{secret}}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%o", "%T", "%p", "%!"} {
		for _, value := range []any{secret, &secret, key, &key, open, &open, private, &private, []any{secret, key}} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+"\n", request, []any{&request})
	}
	fmt.Fprintln(&out, secret, key, open, private, fmt.Errorf("wrapped %v %w", secret, fmt.Errorf("%s", key)))
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("m", "secret", secret, "key", key, "open", open, "private", private, "any", []any{secret, &key}, "request", request)
	}
	for _, value := range []any{secret, key, open, private} {
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(encoded)
	}
	encoded, err := xml.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)

	raw := secret.key()
	for name, canary := range map[string]string{
		"text": secret.Reveal(), "base64": secret.Reveal()[6:], "hex": hex.EncodeToString(raw), "HEX": strings.ToUpper(hex.EncodeToString(raw)),
		"decimal": strings.Trim(fmt.Sprint(raw[:8]), "[]"), "bytes": string(raw), "go": fmt.Sprintf("%#v", raw)[7:30],
		"key": "canary", "key decimal": strings.Trim(fmt.Sprint([]byte("canary")), "[]"), "key hex": hex.EncodeToString([]byte("canary")), "key HEX": strings.ToUpper(hex.EncodeToString([]byte("canary"))),
	} {
		if strings.Contains(out.String(), canary) {
			t.Errorf("the output holds the secret as %s", name)
		}
	}
	if got := fmt.Sprint(secret); got != "[redacted]" {
		t.Errorf("prints as %q", got)
	}
	if encoded, err := json.Marshal(Request{ID: testID, Body: []byte("canary")}); err != nil || bytes.Contains(encoded, []byte("Body")) {
		t.Errorf("a request marshals as %s, %v", encoded, err)
	}
}

func TestSecret_ZeroIsEmpty(t *testing.T) {
	t.Parallel()
	var zero Secret
	if !zero.IsZero() || zero.Reveal() != "" || fmt.Sprint(zero) != "[redacted]" {
		t.Error("the zero secret holds something")
	}
}
