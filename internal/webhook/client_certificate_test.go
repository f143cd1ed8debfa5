package webhook_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/internal/webhook/webhooktest"
)

func block(t *testing.T, text string) *pem.Block {
	t.Helper()
	b, _ := pem.Decode([]byte(text))
	if b == nil {
		t.Fatal("no PEM")
	}
	return b
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func onCurve(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What is read is what is stored, and what is stored opens to the same, for every type of key and form of PEM.
func TestParseClientCertificate(t *testing.T) {
	t.Parallel()
	authority := webhooktest.NewAuthority(t, "Acme")
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curve, rsa2048 := webhooktest.NewKey(t), rsaKey(t, 2048)
	onP256, curvePKCS8 := authority.Issue(t, "rekey", curve)
	sec1, err := x509.MarshalECPrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	withRSA, rsaPKCS8 := authority.Issue(t, "rekey", rsa2048)
	withEdwards, edwardsPKCS8 := authority.Issue(t, "rekey", edwards)
	on521, key521 := authority.Issue(t, "rekey", onCurve(t, elliptic.P521()))
	for what, c := range map[string]struct{ chain, key string }{
		"P-256":             {onP256, curvePKCS8},
		"P-521":             {on521, key521},
		"Ed25519":           {withEdwards, edwardsPKCS8},
		"RSA":               {withRSA, rsaPKCS8},
		"SEC 1, by openssl": {onP256, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))},
		"PKCS #1":           {withRSA, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsa2048)}))},
		"with its issuer":   {"subject=CN = rekey\n" + onP256 + "\n" + authority.PEM(), curvePKCS8},
	} {
		parsed, err := webhook.ParseClientCertificate(c.chain, c.key, time.Now())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		own, whole := sha256.Sum256(block(t, c.chain).Bytes), sha256.New()
		for b, rest := pem.Decode([]byte(c.chain)); b != nil; b, rest = pem.Decode(rest) {
			whole.Write(b.Bytes)
		}
		facts := parsed.Facts()
		if facts.Fingerprint != hex.EncodeToString(own[:]) || facts.Digest != hex.EncodeToString(whole.Sum(nil)) || facts.Subject != "CN=rekey" ||
			facts.Issuer != "CN=Acme" || facts.Serial == "" || !facts.NotBefore.Before(time.Now()) || !facts.NotAfter.After(time.Now()) {
			t.Errorf("%s: %+v", what, facts)
		}
		opened, err := webhook.OpenClientCertificate(parsed.Reveal())
		if err != nil || opened.Facts() != facts || opened.Reveal() != parsed.Reveal() {
			t.Errorf("%s, stored: %+v, %v", what, opened.Facts(), err)
		}
		if !strings.Contains(parsed.Reveal(), "PRIVATE KEY") {
			t.Errorf("%s: the key is not stored", what)
		}
	}
}

// Each refusal names the field and the remedy, and nothing of the key.
func TestParseClientCertificate_Refusals(t *testing.T) {
	t.Parallel()
	authority, now := webhooktest.NewAuthority(t, "Acme"), time.Now()
	chain, key := authority.New(t, "rekey")
	other, otherKey := authority.New(t, "other")
	past, pastKey := authority.Issue(t, "rekey", webhooktest.NewKey(t), func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })
	future, futureKey := authority.Issue(t, "rekey", webhooktest.NewKey(t), func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) })
	p224, p224Key := authority.Issue(t, "rekey", onCurve(t, elliptic.P224()))
	small, smallKey := authority.Issue(t, "rekey", rsaKey(t, 1024))
	typed := func(kind string, text string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: block(t, text).Bytes}))
	}
	for what, c := range map[string]struct{ chain, key, field, reason string }{
		"no certificate":           {"", key, "certificate_pem", "has no certificate"},
		"no PEM":                   {"MIIB", key, "certificate_pem", "has no certificate"},
		"no X.509":                 {typed("CERTIFICATE", key), key, "certificate_pem", "cannot be read"},
		"the key among them":       {chain + key, key, "certificate_pem", "not a certificate"},
		"too many":                 {strings.Repeat(chain, 9), key, "certificate_pem", "more than 8"},
		"too long":                 {chain + strings.Repeat(" ", 32<<10), key, "certificate_pem", "longer than 32 KiB"},
		"expired":                  {past, pastKey, "certificate_pem", "has expired at "},
		"not valid yet":            {future, futureKey, "certificate_pem", "is not valid before "},
		"no key":                   {chain, "", "private_key_pem", "has no private key"},
		"the certificate as key":   {chain, chain, "private_key_pem", "cannot be read"},
		"a broken key":             {chain, typed("PRIVATE KEY", chain), "private_key_pem", "cannot be read"},
		"half a key":               {chain, key[:len(key)/2], "private_key_pem", "has no private key"},
		"an encrypted key":         {chain, typed("ENCRYPTED PRIVATE KEY", key), "private_key_pem", "passphrase"},
		"an old encrypted key":     {chain, strings.Replace(key, "KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1), "private_key_pem", "passphrase"},
		"two keys":                 {chain, key + otherKey, "private_key_pem", "more than one"},
		"a key too long":           {chain, key + strings.Repeat(" ", 16<<10), "private_key_pem", "longer than 16 KiB"},
		"another's key":            {chain, otherKey, "private_key_pem", "does not belong"},
		"another's key, of others": {small, key, "private_key_pem", "does not belong"},
		"the issuer first":         {authority.PEM() + chain, key, "private_key_pem", "put the certificate before its issuers"},
		"another one first":        {other + chain, key, "private_key_pem", "does not belong"},
		"a curve of others":        {p224, p224Key, "private_key_pem", "curve"},
		"RSA of 1024 bits":         {small, smallKey, "private_key_pem", "size"},
	} {
		_, err := webhook.ParseClientCertificate(c.chain, c.key, now)
		bad, ok := errors.AsType[*webhook.CertificateError](err)
		if !ok || bad.Field != c.field || !strings.Contains(bad.Error(), c.reason) || bad.Remedy == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Names come from whoever made the certificate: they are cut, and hold nothing that a log or a table cannot.
func TestClientCertificate_Names(t *testing.T) {
	t.Parallel()
	authority := webhooktest.NewAuthority(t, "Acme")
	chain, key := authority.Issue(t, "a\x00b\nc\u202e"+strings.Repeat("n", 1000), webhooktest.NewKey(t), func(c *x509.Certificate) {
		c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 150)
	})
	parsed, err := webhook.ParseClientCertificate(chain, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	subject := parsed.Facts().Subject
	if len([]rune(subject)) != 256 || strings.ContainsAny(subject, "\x00\n\u202e") || !strings.HasPrefix(subject, "CN=a\uFFFDb") {
		t.Errorf("%q", subject)
	}
}

// However it is printed, logged or marshalled, nothing of the key shows.
func TestClientCertificate_Redacted(t *testing.T) {
	t.Parallel()
	authority := webhooktest.NewAuthority(t, "Acme")
	parsed := certificate(t, authority, "rekey")
	request := webhook.Request{URL: "https://example.com", ID: "msg_1", Endpoint: "ep_1", Certificate: parsed}
	var out bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&out, nil))
	logger.Info("certificate", "one", parsed, "request", request)
	encoded, err := json.Marshal(struct{ C webhook.ClientCertificate }{parsed})
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&out, verb+verb+verb, parsed, &parsed, struct{ c webhook.ClientCertificate }{parsed})
	}
	out.Write(encoded)
	if !strings.Contains(out.String(), "[redacted]") {
		t.Error("nothing is redacted")
	}
	for _, secret := range webhooktest.Traces(t, parsed.Reveal()) {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the key shows in %s", out.String())
		}
	}
}

// What was stored and is broken by now does not open.
func TestOpenClientCertificate(t *testing.T) {
	t.Parallel()
	authority := webhooktest.NewAuthority(t, "Acme")
	chain, _ := authority.New(t, "rekey")
	_, otherKey := authority.New(t, "other")
	good := certificate(t, authority, "rekey").Reveal()
	for what, stored := range map[string]string{
		"nothing": "", "no key": chain, "no certificate": otherKey, "cut": good[:len(good)/2], "another's key": otherKey + chain,
	} {
		if _, err := webhook.OpenClientCertificate(stored); !errors.Is(err, webhook.ErrClientCertificate) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
