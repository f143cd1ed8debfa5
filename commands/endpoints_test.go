package commands_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// newest is what a message is signed with first.
func newest(keys []webhook.Secret) webhook.Secret {
	if len(keys) == 0 {
		return webhook.Secret{}
	}
	return keys[0]
}

// hooks lets a world reach receivers on this machine.
func (w *world) hooks(t *testing.T) *world {
	t.Helper()
	var err error
	if w.guard, err = webhook.NewGuard(webhook.LoopbackPrefixes()); err != nil {
		t.Fatal(err)
	}
	w.replica = w.another(t)
	return w
}

// hook is a receiver as anybody would write it: it checks the signature, and answers challenges.
type hook struct {
	*webhook.Receiver
	url  string
	seen atomic.Int64 // messages with a good signature
	// before, if not nil, is called before an answer.
	before func()
}

func (w *world) hook(t *testing.T, keys ...webhook.ReceiverPrivateKey) *hook {
	t.Helper()
	h := &hook{}
	h.Receiver = webhook.NewReceiver(webhook.ReceiverConfig{
		Now: w.clock.Now, Handle: func(context.Context, webhook.Received) error { return nil },
		Answer: func(m webhook.Received) http.Header {
			h.seen.Add(1)
			if h.before != nil {
				h.before()
			}
			challenge, err := webhook.ReadVerification(m.Body, m.ID, keys...)
			if err != nil {
				return nil
			}
			answer, err := webhook.AnswerChallenge(m.SignedBy, challenge)
			if err != nil {
				return nil
			}
			return http.Header{webhook.HeaderChallenge: {answer}}
		},
	})
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	h.url = server.URL + "/hook"
	return h
}

// register makes an endpoint, whose receiver learns the secret.
func (w *world) register(t *testing.T, by commands.By, project domain.ProjectID, h *hook, adjust ...func(*commands.RegisterEndpoint)) commands.SignedEndpoint {
	t.Helper()
	c := commands.RegisterEndpoint{ProjectID: project, URL: h.url}
	for _, f := range adjust {
		f(&c)
	}
	made, err := w.RegisterEndpoint(t.Context(), by, c)
	if err != nil {
		t.Fatal(err)
	}
	h.AddSecret(made.Secret)
	return made
}

// verify asks a receiver and wants an outcome.
func (w *world) verify(t *testing.T, by commands.By, id domain.EndpointID, want webhook.Outcome, state domain.EndpointState) *projections.Endpoint {
	t.Helper()
	probe, err := w.VerifyEndpoint(t.Context(), by, id)
	if err != nil {
		t.Fatal(err)
	}
	if probe.Outcome != want || probe.Endpoint.State != state {
		t.Fatalf("it was %s and is %s, want %s and %s", probe.Outcome, probe.Endpoint.State, want, state)
	}
	return probe.Endpoint
}

func TestEndpointIsRegisteredAndVerified(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	h := w.hook(t)
	made := w.register(t, by, tenant.Key.ProjectID, h)
	e := made.Endpoint
	if e.State != domain.EndpointUnverified || e.SecretMode != domain.SecretPlain || e.AckLevel != domain.AckAccepted || e.ProjectID != tenant.Key.ProjectID {
		t.Errorf("got %+v", e)
	}
	// 48 bytes, without padding.
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(made.Secret.Reveal(), "whsec_"))
	if err != nil || len(raw) != 48 || strings.Contains(made.Secret.Reveal(), "=") {
		t.Errorf("the signing secret has %d bytes, %v", len(raw), err)
	}
	read, err := w.reader.Endpoint(t.Context(), projections.ReachOf(by.Caller), e.ID)
	if diff := cmp.Diff(e, read); diff != "" || err != nil {
		t.Errorf("the row differs from the answer: %v %s", err, diff)
	}
	keys, err := w.SigningKeys(t.Context(), []domain.EndpointID{e.ID})
	if err != nil || len(keys[e.ID]) != 2 || keys[e.ID][0].Reveal() != made.Secret.Reveal() {
		t.Fatalf("it signs with %d keys, %v", len(keys[e.ID]), err)
	}
	if public, ok := keys[e.ID][1].PublicKey(); !ok || public.String() != e.SigningPublicKey {
		t.Errorf("the public key is %s, shown is %s", public, e.SigningPublicKey)
	}
	w.clock.step(time.Minute)
	e = w.verify(t, by, e.ID, webhook.Delivered, domain.EndpointActive)
	if e.VerifiedAt == nil || !e.VerifiedAt.Equal(w.clock.Now()) {
		t.Errorf("verified at %v", e.VerifiedAt)
	}
	w.verify(t, by, e.ID, webhook.Delivered, domain.EndpointActive) // again changes nothing
	if n := one[int64](t, w, "SELECT version FROM webhook_endpoints WHERE id = $1", e.ID); n != 2 {
		t.Errorf("it is at version %d", n)
	}
	w.check(t)
}

// A 2xx is no proof: any web server gives one.
func TestEndpointIsNotVerifiedByOthers(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	project := tenant.Key.ProjectID
	polite := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(polite.Close)
	stranger, dead := w.hook(t), httptest.NewServer(nil)
	dead.Close()
	private, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(c *commands.RegisterEndpoint) {
		c.SecretMode, c.ReceiverPublicKey = domain.SecretSealed, private.Public().String()
	}
	for what, c := range map[string]struct {
		made commands.SignedEndpoint
		want webhook.Outcome
	}{
		"one that says yes to all":        {w.register(t, by, project, w.hook(t), func(c *commands.RegisterEndpoint) { c.URL = polite.URL }), webhook.AckMissing},
		"one that has another secret":     {w.register(t, by, project, w.hook(t), func(c *commands.RegisterEndpoint) { c.URL = stranger.url }), webhook.ClientError},
		"one that is not there":           {w.register(t, by, project, w.hook(t), func(c *commands.RegisterEndpoint) { c.URL = dead.URL }), webhook.ConnectError},
		"one without the key":             {w.register(t, by, project, w.hook(t), sealed), webhook.AckMissing},
		"one with another key":            {w.register(t, by, project, w.hook(t, other), sealed), webhook.AckMissing},
		"the right one, for a sealed one": {w.register(t, by, project, w.hook(t, private), sealed), webhook.Delivered},
	} {
		state := domain.EndpointUnverified
		if c.want == webhook.Delivered {
			state = domain.EndpointActive
		}
		probe, err := w.VerifyEndpoint(t.Context(), by, c.made.Endpoint.ID)
		if err != nil || probe.Outcome != c.want || probe.Endpoint.State != state {
			t.Errorf("%s: %v, %s, %+v", what, err, probe.Outcome, probe.Endpoint)
		}
	}
	w.check(t)
}

// A receiver that moves gets nothing before it has answered at its new address, and the old one stays in use until then.
func TestEndpointMoves(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	old, moved := w.hook(t), w.hook(t)
	made := w.register(t, by, tenant.Key.ProjectID, old)
	id := made.Endpoint.ID
	w.verify(t, by, id, webhook.Delivered, domain.EndpointActive)
	e, err := w.UpdateEndpoint(t.Context(), by, commands.UpdateEndpoint{ID: id, URL: domain.ChangeTo(moved.url), AckLevel: domain.ChangeTo(domain.AckProof)})
	if err != nil || e.URL != old.url || e.Proposed == nil || e.Proposed.URL != moved.url || e.AckLevel != domain.AckProof || e.State != domain.EndpointActive {
		t.Fatalf("%v: %+v", err, e)
	}
	e = w.verify(t, by, id, webhook.ClientError, domain.EndpointActive) // it does not know the secret yet
	if e.URL != old.url {
		t.Errorf("in use is %s", e.URL)
	}
	if probe, err := w.TestEndpoint(t.Context(), by, id); err != nil || probe.Outcome != webhook.Delivered || old.seen.Load() != 2 || moved.seen.Load() != 0 {
		t.Errorf("the test went elsewhere: %v %s", err, probe.Outcome)
	}
	moved.AddSecret(made.Secret)
	if e = w.verify(t, by, id, webhook.Delivered, domain.EndpointActive); e.URL != moved.url || e.Proposed != nil {
		t.Errorf("in use is %s, proposed %v", e.URL, e.Proposed)
	}
	for field, c := range map[string]commands.UpdateEndpoint{
		"url":                 {URL: domain.ChangeTo("http://hooks.example.com/")},
		"receiver_public_key": {ReceiverPublicKey: domain.ChangeTo(strings.Repeat("A", 43) + "=")},
		"secret_mode":         {SecretMode: domain.ChangeTo(domain.SecretMode("open"))},
	} {
		c.ID = id
		refusal, _ := ignore(w.UpdateEndpoint(t.Context(), by, c)).(*domain.Error)
		if refusal == nil || refusal.Code != domain.CodeValidation || refusal.Fields[0].Field != field {
			t.Errorf("%s: %v", field, refusal)
		}
	}
	w.check(t)
}

func TestEndpointStateCommands(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	made := w.register(t, by, tenant.Key.ProjectID, w.hook(t))
	id := made.Endpoint.ID
	wants := func(e *projections.Endpoint, err error, state domain.EndpointState, reason string) {
		t.Helper()
		if err != nil || e.State != state || e.Reason != reason {
			t.Fatalf("%v: %+v", err, e)
		}
	}
	wantCode(t, "pause what was never verified", ignore(w.PauseEndpoint(t.Context(), by, id, "")), domain.CodeEndpointState)
	w.verify(t, by, id, webhook.Delivered, domain.EndpointActive)
	e, err := w.PauseEndpoint(t.Context(), by, id, "a move")
	wants(e, err, domain.EndpointPaused, "a move")
	e, err = w.ResumeEndpoint(t.Context(), by, id)
	wants(e, err, domain.EndpointActive, "")
	did, err := w.DisableGone(t.Context(), id, "gone", nil)
	if err != nil || !did {
		t.Fatal(did, err)
	}
	if did, err = w.DisableGone(t.Context(), id, "gone", nil); err != nil || did {
		t.Error("it was disabled twice", err)
	}
	if actor := one[string](t, w, "SELECT actor FROM events WHERE stream_id = $1 ORDER BY version DESC LIMIT 1", id); actor != string(domain.ActorDeliver) {
		t.Errorf("it was disabled by %s", actor)
	}
	wantCode(t, "verify what is disabled", ignore(w.VerifyEndpoint(t.Context(), by, id)), domain.CodeEndpointState)
	e, err = w.EnableEndpoint(t.Context(), by, id)
	wants(e, err, domain.EndpointUnverified, "")
	w.verify(t, by, id, webhook.Delivered, domain.EndpointActive)
	e, err = w.DisableEndpoint(t.Context(), by, id, "not ours")
	wants(e, err, domain.EndpointDisabled, "not ours")

	stale := by
	stale.Expected = new(int64(1))
	wantCode(t, "at a version that is past", ignore(w.UpdateEndpoint(t.Context(), stale, commands.UpdateEndpoint{ID: id, AckLevel: domain.ChangeTo(domain.AckProof)})), domain.CodeVersionConflict)

	// A key's own address has been taken at its word, and is again.
	own := *w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, WebhookURL: w.hook(t).url}).Key.EndpointID
	e, err = w.DisableEndpoint(t.Context(), by, own, "")
	wants(e, err, domain.EndpointDisabled, "")
	e, err = w.EnableEndpoint(t.Context(), by, own)
	wants(e, err, domain.EndpointActive, "")
	w.check(t)
}

func TestKeysUseARegisteredEndpoint(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	project := tenant.Key.ProjectID
	first, second := w.register(t, by, project, w.hook(t)).Endpoint.ID, w.register(t, by, project, w.hook(t)).Endpoint.ID
	key := w.create(t, by, commands.CreateKey{ProjectID: project, RotationIntervalSeconds: 60, EndpointID: first})
	if *key.Key.EndpointID != first || key.Key.WebhookURL != nil || !key.WebhookSecret.IsZero() {
		t.Errorf("got %+v", key.Key)
	}
	wantCode(t, "with an address beside it", ignore(w.CreateKey(t.Context(), by, commands.CreateKey{
		ProjectID: project, Name: "ci", EndpointID: first, WebhookURL: "https://hooks.example.com/",
	})), domain.CodeValidation)
	move := func(c domain.UpdateKey) *projections.Key {
		t.Helper()
		c.KeyID = key.Key.ID
		k, _, err := w.UpdateKey(t.Context(), by, c)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if k := move(domain.UpdateKey{EndpointID: domain.ChangeTo(second)}); *k.EndpointID != second {
		t.Errorf("it uses %s", *k.EndpointID)
	}
	wantCode(t, "delete what a key uses", w.DeleteEndpoint(t.Context(), by, second), domain.CodeEndpointInUse)
	if err := w.DeleteEndpoint(t.Context(), by, first); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, w, "SELECT count(*) FROM endpoint_secrets WHERE endpoint_id = $1", first); n != 0 {
		t.Errorf("%d signing secrets of a deleted endpoint are left", n)
	}
	for what, err := range map[string]error{
		"a key for what was deleted":   ignore(w.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: project, Name: "ci", EndpointID: first})),
		"reading what was deleted":     ignore(w.reader.Endpoint(t.Context(), projections.ReachOf(by.Caller), first)),
		"deleting what was deleted":    w.DeleteEndpoint(t.Context(), by, first),
		"disabling what was deleted":   ignore(w.DisableGone(t.Context(), first, "gone", nil)),
		"a key for what cannot be one": ignore(w.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: project, Name: "ci", EndpointID: "ep_\x00"})),
	} {
		wantCode(t, what, err, domain.CodeNotFound)
	}
	if k := move(domain.UpdateKey{EndpointID: domain.ChangeTo(domain.EndpointID(""))}); k.EndpointID != nil {
		t.Errorf("it still uses %s", *k.EndpointID)
	}
	if err := w.DeleteEndpoint(t.Context(), by, second); err != nil {
		t.Fatal(err)
	}
	w.check(t)
}

// An endpoint is never deleted under a key that comes to it at the same time.
func TestDeleteRacesAKey(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	other := w.another(t)
	by, tenant := w.root(t)
	h := w.hook(t)
	for range 20 {
		id := w.register(t, by, tenant.Key.ProjectID, h).Endpoint.ID
		var made, deleted error
		together(2, func(i int) {
			if i == 0 {
				made = ignore(w.CreateKey(context.Background(), by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, Name: "ci", EndpointID: id}))
			} else {
				deleted = other.DeleteEndpoint(context.Background(), by, id)
			}
		})
		if made == nil && deleted == nil {
			t.Fatal("a key uses an endpoint that was deleted")
		}
		if made != nil && deleted != nil && domain.CodeOf(made) != domain.CodeVersionConflict && domain.CodeOf(deleted) != domain.CodeVersionConflict {
			t.Fatalf("neither was done: %v, %v", made, deleted)
		}
	}
	w.check(t)
}

// G6: whatever is asked of an endpoint of another organization, or of a project out of the caller's reach, is answered as
// if there were none, and sends nothing anywhere.
func TestG6EndpointsOfOthersAreNone(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	root, _ := w.root(t)
	mine, my := w.tenant(t, root)
	theirs, their := w.tenant(t, root)
	h := w.hook(t)
	foreign := w.register(t, theirs, their.Key.ProjectID, h).Endpoint.ID
	second, err := w.CreateProject(t.Context(), mine, commands.CreateProject{Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	beside := w.register(t, mine, second.ID, h).Endpoint.ID
	limited := mine
	limited.Caller.Resources = domain.Resources{domain.ResourceProject: {string(my.Key.ProjectID)}}
	key := w.create(t, mine, commands.CreateKey{ProjectID: my.Key.ProjectID}).Key.ID
	unknown := domain.EndpointID(domain.IDs{}.New(domain.PrefixEndpoint, w.clock.Now()))

	for what, ask := range map[string]func(by commands.By, id domain.EndpointID) error{
		"read": func(by commands.By, id domain.EndpointID) error {
			return ignore(w.reader.Endpoint(t.Context(), projections.ReachOf(by.Caller), id))
		},
		"update": func(by commands.By, id domain.EndpointID) error {
			return ignore(w.UpdateEndpoint(t.Context(), by, commands.UpdateEndpoint{ID: id, URL: domain.ChangeTo("https://evil.example.com/")}))
		},
		"verify": func(by commands.By, id domain.EndpointID) error { return ignore(w.VerifyEndpoint(t.Context(), by, id)) },
		"test":   func(by commands.By, id domain.EndpointID) error { return ignore(w.TestEndpoint(t.Context(), by, id)) },
		"pause": func(by commands.By, id domain.EndpointID) error {
			return ignore(w.PauseEndpoint(t.Context(), by, id, ""))
		},
		"resume": func(by commands.By, id domain.EndpointID) error { return ignore(w.ResumeEndpoint(t.Context(), by, id)) },
		"disable": func(by commands.By, id domain.EndpointID) error {
			return ignore(w.DisableEndpoint(t.Context(), by, id, ""))
		},
		"enable": func(by commands.By, id domain.EndpointID) error { return ignore(w.EnableEndpoint(t.Context(), by, id)) },
		"rotate": func(by commands.By, id domain.EndpointID) error {
			return ignore(w.RotateSigningSecret(t.Context(), by, id, nil))
		},
		"delete": func(by commands.By, id domain.EndpointID) error { return w.DeleteEndpoint(t.Context(), by, id) },
		"create a key": func(by commands.By, id domain.EndpointID) error {
			return ignore(w.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: my.Key.ProjectID, Name: "ci", EndpointID: id}))
		},
		"update a key": func(by commands.By, id domain.EndpointID) error {
			_, _, err := w.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: key, EndpointID: domain.ChangeTo(id)})
			return err
		},
	} {
		want := ask(mine, unknown)
		wantCode(t, what, want, domain.CodeNotFound)
		sameRefusal(t, what+" what is another's", ask(mine, foreign), want)
		sameRefusal(t, what+" what cannot be", ask(mine, "ep_\x00"), want)
		sameRefusal(t, what+" what is out of reach", ask(limited, beside), ask(limited, unknown))
	}
	if n := h.seen.Load(); n != 0 {
		t.Errorf("a receiver of another organization was sent %d messages", n)
	}
	if n := one[int](t, w, "SELECT count(*) FROM events WHERE stream_id IN ($1, $2)", foreign, beside); n != 2 {
		t.Errorf("the endpoints have %d events", n)
	}
}

// G8: whoever could send the secrets of a key elsewhere could use them. So it takes all that the keys may do, also those
// that come to the endpoint while the receiver is asked.
func TestG8EndpointsOfMightierKeys(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project := tenant.Key.ProjectID
	limited := by
	limited.Caller.Scopes = domain.Scopes{domain.ScopeWebhooksEdit, "orders:*"}
	old, evil := w.hook(t), w.hook(t)
	made := w.register(t, by, project, old)
	id := made.Endpoint.ID
	evil.AddSecret(made.Secret)
	w.verify(t, by, id, webhook.Delivered, domain.EndpointActive)
	move := func(by commands.By) error {
		return ignore(w.UpdateEndpoint(t.Context(), by, commands.UpdateEndpoint{ID: id, URL: domain.ChangeTo(evil.url)}))
	}

	w.create(t, by, commands.CreateKey{ProjectID: project, EndpointID: id, Scopes: domain.Scopes{"orders:read"}})
	mighty := w.create(t, by, commands.CreateKey{ProjectID: project, EndpointID: id, Scopes: domain.Scopes{"*"}}).Key.ID
	wantCode(t, "move the secrets of a mightier key", move(limited), domain.CodeEscalation)
	if err := ignore(w.UpdateEndpoint(t.Context(), limited, commands.UpdateEndpoint{ID: id, AckLevel: domain.ChangeTo(domain.AckProof)})); err != nil {
		t.Errorf("an edit that moves nothing: %v", err)
	}
	if err := w.RevokeKey(t.Context(), by, mighty, ""); err != nil {
		t.Fatal(err)
	}
	if err := move(limited); err != nil {
		t.Fatalf("without the mightier key: %v", err)
	}
	// A mightier key comes while the new address is asked.
	evil.before = func() {
		if _, err := w.CreateKey(context.Background(), by, commands.CreateKey{ProjectID: project, Name: "late", EndpointID: id, Scopes: domain.Scopes{"*"}}); err != nil {
			t.Error(err)
		}
	}
	wantCode(t, "prove an address under a key that came meanwhile", ignore(w.VerifyEndpoint(t.Context(), limited, id)), domain.CodeVersionConflict)
	evil.before = nil
	wantCode(t, "prove it again", ignore(w.VerifyEndpoint(t.Context(), limited, id)), domain.CodeEscalation)
	if e, err := w.reader.Endpoint(t.Context(), projections.ReachOf(by.Caller), id); err != nil || e.URL != old.url {
		t.Errorf("secrets go to %s, %v", e.URL, err)
	}
	if e := w.verify(t, by, id, webhook.Delivered, domain.EndpointActive); e.URL != evil.url {
		t.Errorf("whoever may do all cannot move it: %+v", e)
	}
	w.check(t)
}

// while a signing secret is being replaced, receivers with the old one and with the new one both accept; after the end
// only the new one does. A grace of 0 ends all at once.
func TestR2SigningSecretsOverlap(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	by, tenant := w.root(t)
	h := w.hook(t)
	made := w.register(t, by, tenant.Key.ProjectID, h)
	id := made.Endpoint.ID
	tested := func(what string, want webhook.Outcome) {
		t.Helper()
		probe, err := w.TestEndpoint(t.Context(), by, id)
		if err != nil || probe.Outcome != want {
			t.Errorf("%s: %s, %v", what, probe.Outcome, err)
		}
	}
	rotated, err := w.RotateSigningSecret(t.Context(), by, id, nil)
	if err != nil || !rotated.ExpiresAt.Equal(w.clock.Now().Add(24*time.Hour)) || rotated.Secret.Reveal() == made.Secret.Reveal() {
		t.Fatalf("%v: %+v", err, rotated)
	}
	keys, err := w.SigningKeys(t.Context(), []domain.EndpointID{id})
	if err != nil || len(keys[id]) != 4 || keys[id][0].Reveal() != rotated.Secret.Reveal() {
		t.Errorf("it signs with %d keys, %v", len(keys[id]), err)
	}
	if public, ok := keys[id][1].PublicKey(); !ok || public.String() != rotated.PublicKey || rotated.PublicKey == made.Endpoint.SigningPublicKey {
		t.Errorf("the new public key is %s, shown is %s", public, rotated.PublicKey)
	}
	w.clock.step(24*time.Hour - time.Second)
	tested("with the old secret, a second before its end", webhook.Delivered)
	w.clock.step(time.Second)
	tested("with the old secret, at its end", webhook.ClientError)
	h.AddSecret(rotated.Secret)
	tested("with the new secret", webhook.Delivered)
	if err := w.ForgetSigningKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, w, "SELECT count(*) FROM endpoint_secrets"); n != 2 {
		t.Errorf("%d sealed secrets are left", n)
	}

	now, day := time.Duration(0), 24*time.Hour
	for range domain.MaxOldSecrets {
		if _, err := w.RotateSigningSecret(t.Context(), by, id, &day); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, "one more with a grace", ignore(w.RotateSigningSecret(t.Context(), by, id, &day)), domain.CodeTooManyInGrace)
	tested("with a secret that was replaced twice", webhook.Delivered)
	last, err := w.RotateSigningSecret(t.Context(), by, id, &now)
	if err != nil {
		t.Fatal(err)
	}
	tested("after all were ended", webhook.ClientError)
	h.AddSecret(last.Secret)
	tested("with the last secret", webhook.Delivered)
	w.check(t)
}

// G5, R-22: signing secrets and private keys are in the answer to their owner, or nowhere at all.
func TestG5EndpointSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	w := setup(t).hooks(t)
	var logged bytes.Buffer
	w.replica = w.another(t, func(c *eventstore.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	by, tenant := w.root(t)
	h := w.hook(t)
	made := w.register(t, by, tenant.Key.ProjectID, h)
	id := made.Endpoint.ID
	probe, err := w.VerifyEndpoint(t.Context(), by, id)
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := w.RotateSigningSecret(t.Context(), by, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	own := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, WebhookURL: h.url})
	keys, err := w.SigningKeys(t.Context(), []domain.EndpointID{id, *own.Key.EndpointID})
	if err != nil {
		t.Fatal(err)
	}
	read, err := w.reader.Endpoint(t.Context(), projections.ReachOf(by.Caller), id)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, secret := range append(keys[id], keys[*own.Key.EndpointID]...) {
		seen = append(seen, secret.Reveal())
	}
	if len(seen) != 6 {
		t.Fatalf("%d secrets were seen", len(seen))
	}
	places := w.dump(t)
	printed := []any{made, probe, rotated, own, keys, read, ignore(w.RotateSigningSecret(t.Context(), by, "ep_x", nil))}
	places["log"], places["printed"] = logged.Bytes(), fmt.Appendf(nil, "%v %+v %#v %s %q", printed, printed, printed, printed, printed)
	for i, secret := range seen {
		for spelling, needle := range spellings(secret) {
			for place, content := range places {
				if bytes.Contains(content, needle) {
					t.Errorf("secret %d stands in %s, %s", i, place, spelling)
				}
			}
		}
	}
	if !bytes.Contains(places["public.webhook_endpoints.signing_public_key"], []byte(rotated.PublicKey)) {
		t.Error("the search does not even find the public key")
	}
}
