package webhooktest

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
)

// Traces are the ways in which the private key of NewKey, the first block of a PEM, could stand somewhere: lines of the PEM,
// its bytes in base64 and hex, as Go prints numbers and slices, and the number that is the secret.
func Traces(t testing.TB, keyPEM string) []string {
	t.Helper()
	block, _ := pem.Decode([]byte(keyPEM))
	if block == nil {
		t.Fatal("no key to look for")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("a key of type %T", parsed)
	}
	secret, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	numbers := strings.Trim(fmt.Sprint(secret), "[]")
	traces := []string{
		string(block.Bytes), string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), numbers,
		strings.ReplaceAll(numbers, " ", ","), strings.ReplaceAll(numbers, " ", ", "), key.D.String(),
		base64.StdEncoding.EncodeToString(block.Bytes), base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
	}
	// The first line of the PEM says only which kind of key it is, and the last one is its public half.
	return append(traces, strings.Split(strings.TrimSpace(keyPEM), "\n")[2])
}
