package domain

import (
	"strings"
	"time"
)

// ClientCertificate is what may be known of the certificate that rekey shows to an endpoint's receiver. The certificate
// itself and its key are kept sealed outside the log, under Digest.
type ClientCertificate struct {
	Digest      string    `json:"digest"`             // SHA-256 of the whole chain, in hex: says which of those that were given is in use
	Fingerprint string    `json:"fingerprint_sha256"` // of the certificate alone, in hex
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Serial      string    `json:"serial"` // in hex
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
}

// validateCertificate refuses a certificate for an address without TLS: the message would go there without it.
func validateCertificate(certificate *ClientCertificate, targets ...Target) error {
	for _, t := range targets {
		if certificate != nil && !strings.HasPrefix(strings.ToLower(t.URL), "https://") {
			return InvalidField("client_certificate", "needs an address with https", "use an https url, or no client certificate (null)")
		}
	}
	return nil
}
