package github

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// Names of the headers of a batch.
const (
	HeaderKeyID     = "Github-Public-Key-Identifier"
	HeaderSignature = "Github-Public-Key-Signature"
)

// ErrNotGitHub says that a batch is not signed by a key that is known as GitHub's. Which part is wrong is not said: only a
// forger would want to know.
var ErrNotGitHub = errors.New("the signature of the batch is missing or not valid")

// maxSignatureLength is well above the 96 characters of the longest P-256 signature.
const maxSignatureLength = 256

// Keys are GitHub's public keys by their identifiers.
type Keys struct{ byID map[string]*ecdsa.PublicKey }

// ParseKeys reads the document that https://api.github.com/meta/public_keys/secret_scanning answers with. Keys that are no
// longer current count too: what was signed before GitHub changed its key may still be on its way.
func ParseKeys(document []byte) (*Keys, error) {
	var list struct {
		PublicKeys []struct {
			Identifier string `json:"key_identifier"`
			Key        string `json:"key"`
		} `json:"public_keys"`
	}
	if err := json.Unmarshal(document, &list); err != nil {
		return nil, fmt.Errorf("read the list of keys: %w", err)
	}
	if len(list.PublicKeys) == 0 {
		return nil, errors.New("the list public_keys is missing or empty")
	}
	keys := &Keys{byID: make(map[string]*ecdsa.PublicKey, len(list.PublicKeys))}
	for i, k := range list.PublicKeys {
		if k.Identifier == "" || keys.byID[k.Identifier] != nil {
			return nil, fmt.Errorf("public_keys[%d]: key_identifier is missing, or repeats an earlier one", i)
		}
		key, err := parseKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("public_keys[%d]: %w", i, err)
		}
		keys.byID[k.Identifier] = key
	}
	return keys, nil
}

// parseKey reads one public key. Only P-256 will do, because that is what the program signs with.
func parseKey(text string) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("key is not in PEM form")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("key is not an ECDSA key on the curve P-256")
	}
	return key, nil
}

// Check returns nil if the signature, the value of HeaderSignature, is that of exactly this body by the key of the
// identifier, the value of HeaderKeyID; else ErrNotGitHub.
func (k *Keys) Check(identifier, signature string, body []byte) error {
	key := k.byID[identifier]
	if key == nil || len(signature) > maxSignatureLength {
		return ErrNotGitHub
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return ErrNotGitHub
	}
	digest := sha256.Sum256(body)
	if !ecdsa.VerifyASN1(key, digest[:], raw) {
		return ErrNotGitHub
	}
	return nil
}
