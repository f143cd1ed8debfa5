package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

// TestConfigReadsGitHubKeys requires that the file of REKEY_GITHUB_SECRET_SCANNING_KEYS is what batches are checked with.
func TestConfigReadsGitHubKeys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	document, err := json.Marshal(map[string]any{"public_keys": []map[string]any{{
		"key_identifier": "a", "key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "is_current": true,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, document, 0o600); err != nil {
		t.Fatal(err)
	}
	setRequired(t)
	without, err := configFromEnv(false, allRoles)
	if err != nil || without.GitHub != nil {
		t.Fatalf("without the variable: %v", err)
	}
	t.Setenv("REKEY_GITHUB_SECRET_SCANNING_KEYS", path)
	c, err := configFromEnv(false, allRoles)
	if err != nil || c.GitHub == nil {
		t.Fatalf("with the variable: %v", err)
	}
	digest := sha256.Sum256([]byte("[]"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString(signature)
	if err := c.GitHub("a", encoded, []byte("[]")); err != nil {
		t.Errorf("a good signature: %v", err)
	}
	if c.GitHub("a", encoded, []byte("[ ]")) == nil || c.GitHub("b", encoded, []byte("[]")) == nil {
		t.Error("a bad signature is taken")
	}
}
