package webhook

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxChainPEM    = 32 << 10
	maxKeyPEM      = 16 << 10
	maxChainLength = 8
	maxNameLength  = 256 // characters that are kept of a name

	minRSABits = 2048
	maxRSABits = 8192 // crypto/tls takes no larger ones

	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY"
)

// ErrClientCertificate says that a certificate cannot be shown to a receiver: it is broken, or not valid now.
var ErrClientCertificate = errors.New("client certificate cannot be used")

// CertificateError says why a certificate or its key is not accepted and what to do, in words for the person who sent it.
// It holds nothing of the key.
type CertificateError struct {
	Field  string // certificate_pem or private_key_pem
	Reason string
	Remedy string
}

// Error gives both.
func (e *CertificateError) Error() string { return e.Field + " " + e.Reason + "; " + e.Remedy }

// ClientCertificate is a certificate, the chain of its issuers, and its private key: what rekey shows to a receiver that
// wants to know who calls. It prints as [redacted]; only Reveal gives the text. The zero value is none.
type ClientCertificate struct {
	parts func() tls.Certificate // a function for the reason given at Secret
	facts CertificateFacts
}

// CertificateFacts is what everybody may know of a certificate.
type CertificateFacts struct {
	Digest      string // SHA-256 of the whole chain, in hex
	Fingerprint string // SHA-256 of the certificate alone, in hex
	Subject     string
	Issuer      string
	Serial      string // in hex
	NotBefore   time.Time
	NotAfter    time.Time
}

// ParseClientCertificate reads a chain in PEM, the certificate itself first, and its private key in PEM, for use from now
// on. It fails with a *CertificateError.
func ParseClientCertificate(chainPEM, keyPEM string, now time.Time) (ClientCertificate, error) {
	chain, leaf, bad := parseChain(chainPEM)
	if bad != nil {
		return ClientCertificate{}, bad
	}
	key, bad := parsePrivateKey(keyPEM)
	if bad != nil {
		return ClientCertificate{}, bad
	}
	if bad := checkPair(leaf, key); bad != nil {
		return ClientCertificate{}, bad
	}
	switch {
	case now.Before(leaf.NotBefore):
		return ClientCertificate{}, badChain("is not valid before "+leaf.NotBefore.UTC().Format(time.RFC3339), "send it then, or one that is valid now")
	case !now.Before(leaf.NotAfter):
		return ClientCertificate{}, badChain("has expired at "+leaf.NotAfter.UTC().Format(time.RFC3339), "send one that is valid now")
	}
	return certificateOf(chain, leaf, key), nil
}

func badChain(reason, remedy string) *CertificateError {
	return &CertificateError{"certificate_pem", reason, remedy}
}

func badKey(reason, remedy string) *CertificateError {
	return &CertificateError{"private_key_pem", reason, remedy}
}

func parseChain(text string) (chain [][]byte, leaf *x509.Certificate, bad *CertificateError) {
	if len(text) > maxChainPEM {
		return nil, nil, badChain("is longer than 32 KiB", "send the certificate and its intermediate issuers alone")
	}
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			return nil, nil, badChain("has a block that is not a certificate", "send blocks of BEGIN CERTIFICATE alone, and the key in private_key_pem")
		}
		if len(chain) == maxChainLength {
			return nil, nil, badChain("has more than 8 certificates", "send the certificate and its intermediate issuers alone")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, badChain("has a certificate that cannot be read", "send X.509 certificates as their issuer made them, in PEM")
		}
		if leaf == nil {
			leaf = certificate
		}
		chain = append(chain, block.Bytes)
	}
	if leaf == nil {
		return nil, nil, badChain("has no certificate", "send it in PEM, from -----BEGIN CERTIFICATE----- on, with its line breaks")
	}
	return chain, leaf, nil
}

func parsePrivateKey(text string) (crypto.Signer, *CertificateError) {
	if len(text) > maxKeyPEM {
		return nil, badKey("is longer than 16 KiB", "send one private key alone")
	}
	var found crypto.Signer
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "EC PARAMETERS": // openssl writes the name of the curve before the key
			continue
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, badKey("is encrypted with a passphrase", "send it without one: openssl pkey -in key.pem")
		case found != nil:
			return nil, badKey("has more than one block", "send the certificate's private key alone")
		}
		if found = parseKeyBlock(block); found == nil {
			return nil, badKey("cannot be read as a private key", "send an ECDSA, Ed25519 or RSA key in PEM (PKCS #8, PKCS #1 or SEC 1)")
		}
	}
	if found == nil {
		return nil, badKey("has no private key", "send it in PEM, from -----BEGIN PRIVATE KEY----- on, with its line breaks")
	}
	return found, nil
}

// parseKeyBlock is nil for what is not a key that signs. The errors of the parsers go nowhere: no text is made of a key.
func parseKeyBlock(block *pem.Block) crypto.Signer {
	var key any
	var err error
	switch block.Type {
	case pemPrivateKey:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil
	}
	return signer
}

// checkPair refuses a key that TLS does not sign with, and one that is not the certificate's.
func checkPair(leaf *x509.Certificate, key crypto.Signer) *CertificateError {
	const remedy = "use ECDSA (P-256, P-384 or P-521), Ed25519, or RSA of 2048 to 8192 bits"
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, public.Curve) {
			return badKey("is on a curve that TLS does not sign with", remedy)
		}
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return badKey("has a size that is not supported", remedy)
		}
	case ed25519.PublicKey:
	default:
		return badKey("is of a type that is not supported", remedy)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return badKey("does not belong to the first certificate of certificate_pem", "send the key of that certificate, and put the certificate before its issuers")
	}
	return nil
}

func certificateOf(chain [][]byte, leaf *x509.Certificate, key crypto.Signer) ClientCertificate {
	whole := sha256.New()
	for _, der := range chain {
		whole.Write(der)
	}
	own := sha256.Sum256(leaf.Raw)
	parts := tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
	return ClientCertificate{
		parts: func() tls.Certificate { return parts },
		facts: CertificateFacts{
			Digest: hex.EncodeToString(whole.Sum(nil)), Fingerprint: hex.EncodeToString(own[:]),
			Subject: shownName(leaf.Subject), Issuer: shownName(leaf.Issuer), Serial: leaf.SerialNumber.Text(16),
			NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
		},
	}
}

// shownName is a name as it may stand in logs and tables: whoever made the certificate could write anything into it.
func shownName(name pkix.Name) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, name.String())
	if runes := []rune(text); len(runes) > maxNameLength {
		return string(runes[:maxNameLength-1]) + "…"
	}
	return text
}

// OpenClientCertificate reads the form that Reveal gives. Whether it is valid now is asked at each attempt.
func OpenClientCertificate(stored string) (ClientCertificate, error) {
	keyPEM, chainPEM, ok := strings.Cut(stored, pemEnd)
	if !ok {
		return ClientCertificate{}, fmt.Errorf("%w: it is not in its stored form", ErrClientCertificate)
	}
	key, bad := parsePrivateKey(keyPEM + pemEnd)
	if bad != nil {
		return ClientCertificate{}, fmt.Errorf("%w: %w", ErrClientCertificate, bad)
	}
	chain, leaf, bad := parseChain(chainPEM)
	if bad == nil {
		bad = checkPair(leaf, key)
	}
	if bad != nil {
		return ClientCertificate{}, fmt.Errorf("%w: %w", ErrClientCertificate, bad)
	}
	return certificateOf(chain, leaf, key), nil
}

const pemEnd = "-----END " + pemPrivateKey + "-----\n"

// Reveal gives key and chain, to store sealed. The zero value gives "".
func (c ClientCertificate) Reveal() string {
	if c.IsZero() {
		return ""
	}
	parts := c.parts()
	key, err := x509.MarshalPKCS8PrivateKey(parts.PrivateKey)
	if err != nil { // every key that checkPair lets through has this form
		return ""
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: key})
	for _, der := range parts.Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})...)
	}
	return string(out)
}

// Facts is what everybody may know of it.
func (c ClientCertificate) Facts() CertificateFacts { return c.facts }

// IsZero says whether there is no certificate in it.
func (c ClientCertificate) IsZero() bool { return c.parts == nil }

// usable fails for what no receiver would accept, or could be shown.
func (c ClientCertificate) usable(now time.Time, scheme string) error {
	switch {
	case scheme != "https":
		return fmt.Errorf("%w: the address has no TLS", ErrClientCertificate)
	case now.Before(c.facts.NotBefore):
		return fmt.Errorf("%w: it is not valid before %s", ErrClientCertificate, c.facts.NotBefore.Format(time.RFC3339))
	case !now.Before(c.facts.NotAfter):
		return fmt.Errorf("%w: it expired at %s", ErrClientCertificate, c.facts.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// show answers a receiver that asks for a certificate. Left to itself, crypto/tls goes on without one when the receiver
// names issuers and ours is not among them; the receiver is to say itself that it does not want this one.
func (c ClientCertificate) show(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	parts := c.parts()
	return &parts, nil
}

// String hides the key.
func (ClientCertificate) String() string { return redacted }

// GoString hides the key from %#v.
func (ClientCertificate) GoString() string { return redacted }

// Format hides the key from every verb of fmt.
func (ClientCertificate) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the key from log/slog.
func (ClientCertificate) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the key from encoding/json.
func (ClientCertificate) MarshalJSON() ([]byte, error) { return Secret{}.MarshalJSON() }

// MarshalText hides the key from every encoder that works with text.
func (ClientCertificate) MarshalText() ([]byte, error) { return Secret{}.MarshalText() }
