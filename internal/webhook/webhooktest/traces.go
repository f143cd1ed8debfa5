package webhooktest

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// Traces are the ways in which the private key of NewKey, the first block of a PEM, could stand somewhere: a line of the PEM,
// the secret's bytes as they are, in base64 and hex, and as Go prints slices and numbers.
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
		string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), numbers,
		strings.ReplaceAll(numbers, " ", ","), strings.ReplaceAll(numbers, " ", ", "), new(big.Int).SetBytes(secret).String(),
		base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
	}
	// The first line of the PEM says only which kind of key it is; in the next one the public half begins, so it is not whole.
	line := strings.Split(strings.TrimSpace(keyPEM), "\n")[2]
	return append(traces, line, hex.EncodeToString([]byte(line)))
}
