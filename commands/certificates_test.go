package commands_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/internal/webhook/webhooktest"
	"github.com/rekeyhq/rekey/projections"
)

// certificate is one that is valid at the world's time.
func (w *world) certificate(t *testing.T, name string) webhook.ClientCertificate {
	t.Helper()
	chain, key := webhooktest.NewAuthority(t, "Acme").New(t, name)
	c, err := w.ReadCertificate(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// G4, G5: what may be known of a certificate is rebuilt from the log; the certificate itself is no part of it, opens as
// before, and for nobody with another master key.
func TestClientCertificateOutlivesARebuild(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	first, second := w.certificate(t, "first"), w.certificate(t, "second")
	made, err := w.RegisterEndpoint(t.Context(), by, commands.RegisterEndpoint{
		ProjectID: tenant.Key.ProjectID, URL: "https://hooks.example.com/", Certificate: first,
	})
	if err != nil {
		t.Fatal(err)
	}
	id := made.Endpoint.ID
	changed, err := w.UpdateEndpoint(t.Context(), by, commands.UpdateEndpoint{ID: id, Certificate: domain.ChangeTo(second)})
	if err != nil {
		t.Fatal(err)
	}
	facts := domain.ClientCertificate(second.Facts())
	if diff := cmp.Diff(&facts, changed.ClientCertificate); diff != "" {
		t.Error(diff)
	}
	w.check(t)

	w.exec(t, "TRUNCATE webhook_endpoints")
	w.exec(t, "UPDATE streams SET state_revision = 0")
	conn, err := pgx.Connect(context.Background(), w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := projections.Rebuild(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	w.check(t)
	rebuilt, err := w.reader.Endpoint(t.Context(), projections.ReachOf(by.Caller), id)
	if diff := cmp.Diff(changed, rebuilt); diff != "" || err != nil {
		t.Errorf("rebuilt, it is another one: %v %s", err, diff)
	}
	opened, err := w.ClientCertificate(t.Context(), id, facts.Digest)
	if err != nil || opened.Reveal() != second.Reveal() {
		t.Errorf("it opens as %+v, %v", opened.Facts(), err)
	}
	if _, err := w.ClientCertificate(t.Context(), id, first.Facts().Digest); !errors.Is(err, commands.ErrCertificateChanged) {
		t.Errorf("the one before: %v", err)
	}
	if none, err := w.ClientCertificate(t.Context(), id, ""); err != nil || !none.IsZero() {
		t.Errorf("none: %v", err)
	}
	if w.sealer, err = seal.New(seal.NewKey()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.another(t).ClientCertificate(t.Context(), id, facts.Digest); !errors.Is(err, webhook.ErrClientCertificate) || !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("with another master key: %v", err)
	}
}

// What an endpoint showed is shredded with it, and when it shows nothing any more.
func TestClientCertificateIsShredded(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	for what, end := range map[string]func(domain.EndpointID) error{
		"deleted": func(id domain.EndpointID) error { return w.DeleteEndpoint(t.Context(), by, id) },
		"taken away": func(id domain.EndpointID) error {
			_, err := w.UpdateEndpoint(t.Context(), by, commands.UpdateEndpoint{ID: id, Certificate: domain.ChangeTo(webhook.ClientCertificate{})})
			return err
		},
	} {
		made, err := w.RegisterEndpoint(t.Context(), by, commands.RegisterEndpoint{
			ProjectID: tenant.Key.ProjectID, URL: "https://hooks.example.com/", Certificate: w.certificate(t, "one"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := end(made.Endpoint.ID); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := one[int](t, w, "SELECT count(*) FROM endpoint_certificates"); n != 0 {
			t.Errorf("%s: it is still there", what)
		}
	}
	w.check(t)
}
