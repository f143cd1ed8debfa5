package api

import (
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// CertificateBody is what may be known of a client certificate. It is exported for the reason of TargetBody.
type CertificateBody struct {
	Subject     string    `json:"subject" example:"CN=rekey,O=Example" doc:"Whose it is"`
	Issuer      string    `json:"issuer" example:"CN=Example CA" doc:"Who issued it"`
	Serial      string    `json:"serial" example:"1f2e3d4c" doc:"In hexadecimal"`
	Fingerprint string    `json:"fingerprint_sha256" example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" doc:"SHA-256 of the certificate in DER, in hexadecimal"`
	NotBefore   time.Time `json:"not_before" doc:"Valid from then on"`
	NotAfter    time.Time `json:"not_after" doc:"Valid until then; after that nothing is sent, and attempts end as client_certificate_error"`
}

func bodyOfCertificate(c *domain.ClientCertificate) (b surface.Nullable[CertificateBody]) {
	if c != nil {
		b.Value = &CertificateBody{c.Subject, c.Issuer, c.Serial, c.Fingerprint, c.NotBefore.UTC(), c.NotAfter.UTC()}
	}
	return b
}

// GivenCertificate is a client certificate as its owner sends it. No answer has any of it. It is exported for the reason of
// TargetBody.
type GivenCertificate struct {
	CertificatePEM string `json:"certificate_pem" writeOnly:"true" example:"-----BEGIN CERTIFICATE-----\n..." doc:"The certificate in PEM, then the intermediate ones of its issuers: at most 8, 32 KiB"`
	PrivateKeyPEM  string `json:"private_key_pem" writeOnly:"true" example:"-----BEGIN PRIVATE KEY-----\n..." doc:"Its private key in PEM, without a passphrase: ECDSA (P-256, P-384, P-521), Ed25519, or RSA of 2048 to 8192 bits"`
}

// addCertificate reads the certificate that a new endpoint is to show; null: none.
func (s *server) addCertificate(to *commands.RegisterEndpoint, given surface.Optional[GivenCertificate]) (err error) {
	if c := given.Pointer(); c != nil {
		to.Certificate, err = s.Commands.ReadCertificate(c.CertificatePEM, c.PrivateKeyPEM)
	}
	return err
}

// changeCertificate reads the one that an endpoint is to show from now on; null: none any more.
func (s *server) changeCertificate(of *commands.UpdateEndpoint, given surface.Optional[GivenCertificate]) (err error) {
	of.Certificate.Set = given.Set
	if c := given.Pointer(); c != nil {
		of.Certificate.Value, err = s.Commands.ReadCertificate(c.CertificatePEM, c.PrivateKeyPEM)
	}
	return err
}
