package workers

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// fataler is what the helpers need of a test; that of rapid is none of package testing.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// modelLine is a lineage of the model, and the secrets of it that somebody holds.
type modelLine struct {
	id       domain.LineageID
	receiver *modelReceiver // who is sent its secrets; nil: its keys fetch them
	secrets  map[domain.KeyID]string
}

// model is an installation of rekey: one process that takes commands, and some that work and are killed. The processes and
// the receivers are real, and so is Postgres; only the clock is not.
type model struct {
	t         *testing.T
	db        *dbtest.DB
	pool      *pgxpool.Pool
	owner     *pgxpool.Pool
	sealer    *seal.Sealer
	guard     *webhook.Guard
	clock     *modelClock
	graves    sync.WaitGroup
	killed    int
	receivers []*modelReceiver // plain, sealed, claim, a key's own

	// Of one sequence:
	service   *commands.Service
	reader    *projections.Reader
	verifier  *projections.Verifier
	tenant    commands.By
	project   domain.ProjectID
	processes []*process
	lines     []*modelLine
	policy    domain.TimeoutAction
	used      map[domain.RotationID]domain.AckLevel // signs that did not come from a receiver
	lastUse   map[domain.KeyID]time.Time            // of keys in grace
	done      map[string]int
}

func newModel(t *testing.T) *model {
	t.Helper()
	m := &model{t: t, db: dbtest.New(t), clock: &modelClock{}, done: map[string]int{}}
	m.pool, m.owner = m.db.Pool(t), m.db.OwnerPool(t)
	t.Cleanup(m.graves.Wait)
	var err error
	if m.sealer, err = seal.New(seal.NewKey()); err != nil {
		t.Fatal(err)
	}
	if m.guard, err = webhook.NewGuard(webhook.LoopbackPrefixes()); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		m.receivers = append(m.receivers, newModelReceiver(t, m))
	}
	return m
}

// begin empties the installation and starts it anew; the returned function stops it.
func (m *model) begin(t fataler, policy domain.TimeoutAction) (end func()) {
	m.empty(t)
	m.clock.micros.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro())
	m.policy, m.used, m.lines, m.processes = policy, map[domain.RotationID]domain.AckLevel{}, nil, nil
	m.lastUse = map[domain.KeyID]time.Time{}
	store := eventstore.New(eventstore.Config{Pool: m.pool, Projection: projections.ReadModel{}, Now: m.clock.Now})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- store.Run(ctx) }()
	m.reader = projections.NewReader(m.pool, dbtest.Tenants(m.t, m.pool))
	m.verifier = projections.NewVerifier(m.reader, m.clock.Now)
	m.service = m.commands(store, m.reader, webhook.NewSender(webhook.SenderConfig{Guard: m.guard, Now: m.clock.Now, Timeout: time.Second}))
	setup, err := m.service.Setup(ctx, domain.Secret{})
	if err != nil {
		t.Fatalf("setup: %v", err)
	}
	m.tenant, m.project = commands.By{Caller: setup.Key.Caller()}, setup.Key.ProjectID
	_, err = m.service.UpdateProject(ctx, m.tenant, domain.UpdateProject{ID: m.project, Policy: domain.PolicyChange{
		RotationTimeout: domain.ChangeTo(policy), EarlyRetireSeconds: domain.ChangeTo(int64(modelEarlyRetire / time.Second)),
	}})
	if err != nil {
		t.Fatalf("set the policy: %v", err)
	}
	for range 2 {
		m.processes = append(m.processes, m.spawn(m.t))
	}
	m.furnish(t)
	m.clock.step(7 * time.Hour) // all of them are due
	return func() {
		for _, r := range m.receivers {
			r.behave(proves)
		}
		for _, p := range m.processes {
			p.stop()
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("the store ended: %v", err)
		}
	}
}

func (m *model) empty(t fataler) {
	t.Helper()
	if _, err := m.owner.Exec(context.Background(), `TRUNCATE events, streams, consumers, organizations, projects, environments, keys,
		rotations, due_work, webhook_endpoints, endpoint_secrets, endpoint_certificates, pending_secrets, webhook_deliveries, webhook_attempts, webhook_messages,
		endpoint_health, epoch_keys, claims, grace_usage, key_usage, usage_flushes, river.river_job`); err != nil {
		t.Fatalf("empty the database: %v", err)
	}
}

// furnish registers the receivers and makes a key for each, and one that nobody is told of.
func (m *model) furnish(t fataler) {
	modes := []domain.SecretMode{domain.SecretPlain, domain.SecretSealed, domain.SecretClaim}
	levels := []domain.AckLevel{domain.AckAccepted, domain.AckProof, domain.AckAccepted}
	for i, r := range m.receivers {
		r.reset(t)
		if i < len(modes) {
			made, err := m.service.RegisterEndpoint(context.Background(), m.tenant, commands.RegisterEndpoint{
				ProjectID: m.project, URL: r.server.URL, SecretMode: modes[i], AckLevel: levels[i], ReceiverPublicKey: r.publicKey(),
			})
			if err != nil {
				t.Fatalf("register an endpoint: %v", err)
			}
			r.know(made.Endpoint.ID, made.Secret)
			if _, err := m.service.VerifyEndpoint(context.Background(), m.tenant, r.endpoint); err != nil {
				t.Fatalf("verify an endpoint: %v", err)
			}
		}
		m.line(t, r)
	}
	m.line(t, nil)
}

func (r *modelReceiver) know(endpoint domain.EndpointID, secret webhook.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endpoint, r.signing = endpoint, append(r.signing, secret)
}

// line makes a key whose secrets a receiver is sent. The last receiver is no registered endpoint but the key's own.
func (m *model) line(t fataler, r *modelReceiver) {
	c := commands.CreateKey{ProjectID: m.project, Name: "rotated", RotationIntervalSeconds: 6 * 60 * 60, GraceSeconds: new(int64(3 * 60 * 60))}
	switch {
	case r == m.receivers[3]:
		c.WebhookURL = r.server.URL
	case r != nil:
		c.EndpointID = r.endpoint
	}
	created, err := m.service.CreateKey(context.Background(), m.tenant, c)
	if err != nil {
		t.Fatalf("create a key: %v", err)
	}
	if c.WebhookURL != "" {
		r.know(*created.Key.EndpointID, created.WebhookSecret)
	}
	m.lines = append(m.lines, &modelLine{created.Key.LineageID, r, map[domain.KeyID]string{created.Key.ID: created.Secret.Reveal()}})
}

// settle waits until the processes have nothing to do at this instant, apart from attempts that a receiver lets hang. It
// replaces those that were killed.
func (m *model) settle(t fataler) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		m.bury(m.t)
		if m.quiet(t) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the workers do not come to rest")
		}
	}
}

// sqlUnderWay counts sweeps too: a process asks for one when it starts, and on a busy machine it may come late.
const sqlUnderWay = `SELECT count(*) FROM river.river_job WHERE kind IN ('deliver', 'sweep')
	AND (state = 'available' OR state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = ANY($1))`

func (m *model) quiet(t fataler) bool {
	t.Helper()
	ctx, hanging := context.Background(), 0
	for _, r := range m.receivers {
		hanging += r.hang()
	}
	position := ask[int64](t, m, `SELECT coalesce(max(position), 0) FROM consumers WHERE name = $1`, fanOutName)
	records, err := eventstore.ReadLane(ctx, m.owner, eventstore.Lifecycle, position, 1000)
	if err != nil {
		t.Fatalf("read the log: %v", err)
	}
	var living []string
	for _, p := range m.processes {
		living = append(living, p.w.client.ID())
	}
	wants := (&Workers{}).fanOut().Wants
	for _, r := range records {
		if wants(r) {
			return false
		}
	}
	return ask[int](t, m, sqlUnderWay, living) <= hanging
}

// ask returns a single value of the database, as the owner.
func ask[T any](t fataler, m *model, sql string, args ...any) (v T) {
	t.Helper()
	if err := m.owner.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// all returns a column of the database, as the owner.
func all[T any](t fataler, m *model, sql string, args ...any) (out []T) {
	t.Helper()
	rows, err := m.owner.Query(context.Background(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	for rows.Next() {
		var v T
		if err := rows.Scan(&v); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		out = append(out, v)
	}
	return out
}
