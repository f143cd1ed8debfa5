// Package webhooktest makes the certificates of tests, and receivers that want to see one.
package webhooktest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Authority issues client certificates.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// begin and end are so far apart that tests with clocks of their own are in between.
var (
	begin = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	end   = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
)

// NewAuthority makes an authority that is valid from 2020 for a hundred years. Those of different names are not taken for each
// other by who only compares names.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: begin, NotAfter: end,
	}
	a := &Authority{certificate: template, key: NewKey(t)}
	a.certificate = a.sign(t, template, a.key)
	return a
}

// NewKey makes a key on P-256.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *Authority) sign(t testing.TB, template *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// Pool trusts the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// PEM is the authority's own certificate.
func (a *Authority) PEM() string { return encode("CERTIFICATE", a.certificate.Raw) }

// Issue makes a certificate of a name for a key, as valid as the authority, and gives both as PEM. change may alter it before it is signed.
func (a *Authority) Issue(t testing.TB, name string, key crypto.Signer, change ...func(*x509.Certificate)) (certificatePEM, keyPEM string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: begin, NotAfter: end,
	}
	for _, f := range change {
		f(template)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", a.sign(t, template, key).Raw), encode("PRIVATE KEY", der)
}

// New issues a certificate of a name for a new key.
func (a *Authority) New(t testing.TB, name string) (certificatePEM, keyPEM string) {
	t.Helper()
	return a.Issue(t, name, NewKey(t))
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// Serve runs a receiver over TLS that lets in who shows a certificate of the authority, over HTTP/2 if it is asked for.
// Clients that trust the pool take its own certificate.
func (a *Authority) Serve(t testing.TB, handler http.Handler, change ...func(*httptest.Server)) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool()}
	for _, f := range change {
		f(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server, pool
}
