package commands_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// action is one thing that somebody does. What it is done to is picked from what there is at that moment, so that an
// action means something at any place of any sequence.
type action struct {
	Kind     string
	Pick     int
	Grace    time.Duration
	Interval int64
	Life     time.Duration // 0: for ever
	Webhook  string
	Step     time.Duration
	Flag     bool
}

// kind is what an action can be, and how often it comes. It reports whether something happened, and the refusal if not.
type kind struct {
	name   string
	weight int
	run    func(*play, *replica, action) (bool, error)
}

var actions = []kind{
	{"create", 3, (*play).create},
	{"update", 4, (*play).update},
	{"rotate", 4, (*play).rotate},
	{"sweep", 8, (*play).sweep},
	{"step", 5, (*play).step},
	{"acknowledge", 4, (*play).acknowledge},
	{"stall", 2, (*play).stall},
	{"first use", 3, (*play).firstUse},
	{"proof", 2, (*play).proof},
	{"cancel", 1, (*play).cancel},
	{"force", 1, (*play).force},
	{"redeliver", 2, (*play).redeliver},
	{"redeliver anew", 1, (*play).redeliverAnew},
	{"time out", 2, (*play).timeOut},
	{"roll back", 3, (*play).rollBack},
	{"change grace", 3, (*play).changeGrace},
	{"end grace", 2, (*play).endGrace},
	{"compromise", 1, (*play).compromise},
	{"claim", 4, (*play).claim},
	{"revoke", 3, (*play).revoke},
	{"leak", 1, (*play).leak},
	{"environment", 1, (*play).environment},
	{"project", 1, (*play).project},
	{"organization", 1, (*play).organization},
	{"policy", 2, (*play).policy},
	{"delete", 2, (*play).delete},
	{"surfaces", 1, (*play).surfaces},
}

var drawAction = rapid.Custom(func(t *rapid.T) action {
	var names []string
	for _, k := range actions {
		for range k.weight {
			names = append(names, k.name)
		}
	}
	return action{
		Kind:     rapid.SampledFrom(names).Draw(t, "kind"),
		Pick:     rapid.IntRange(0, 1000).Draw(t, "pick"),
		Grace:    rapid.SampledFrom([]time.Duration{0, 0, time.Second, time.Minute, time.Hour}).Draw(t, "grace"),
		Interval: rapid.SampledFrom([]int64{10, 0, 2, 3600}).Draw(t, "interval"),
		Life:     rapid.SampledFrom([]time.Duration{0, 0, 0, 30 * time.Second, 3 * time.Hour}).Draw(t, "life"),
		Webhook:  rapid.SampledFrom([]string{"", "https://a.example.com/hook", "https://b.example.com/hook"}).Draw(t, "webhook"),
		// Clocks are set back too, a little.
		Step: rapid.SampledFrom([]time.Duration{time.Microsecond, 3 * time.Second, 20 * time.Second, time.Hour, 5 * time.Hour, -time.Second}).Draw(t, "step"),
		Flag: rapid.Bool().Draw(t, "flag"),
	}
})

// known is a key that somebody holds.
type known struct {
	by     commands.By
	id     domain.KeyID
	secret domain.Secret
}

// waiting is a rotation that a sweep began.
type waiting struct {
	by       commands.By
	lineage  domain.LineageID
	rotation domain.RotationID
	from     domain.KeyID // the key that it replaces
}

// place is a project of somebody.
type place struct {
	by commands.By
	id domain.ProjectID
}

// play is one sequence of actions and what is known of its outcome.
type play struct {
	w        *world
	replicas []*replica
	alone    bool // actions come one by one

	mu        sync.Mutex
	root      commands.By
	places    []place
	keys      []known // with their secrets, as far as they were answered
	rotations []waiting
	claimable []waiting // those without a webhook
	hooks     map[domain.EndpointID]webhook.Secret
	revoked   []domain.KeyID // active when they were revoked, as far as that is sure
	claimed   map[domain.RotationID]int
	done      map[string]int

	memory     *verifier.Verifier // follows the log meanwhile
	stopMemory func()
}

func newPlay(t fataler, w *world, replicas ...*replica) *play {
	w.empty(t)
	w.clock.micros.Store(newClock().micros.Load()) // the same in every run
	p := &play{w: w, replicas: replicas, hooks: map[domain.EndpointID]webhook.Secret{}, claimed: map[domain.RotationID]int{}, done: map[string]int{}}
	p.startMemory()
	root, tenant := w.root(t)
	p.root = root
	// Some keys to begin with, so that short sequences meet rotations in every state.
	for i := range 6 {
		hook := []string{"", "https://a.example.com/hook"}[i%2]
		if _, err := p.createIn(replicas[0], place{root, tenant.Key.ProjectID}, action{Interval: 10, Webhook: hook}); err != nil {
			t.Fatalf("create a key: %v", err)
		}
	}
	w.clock.step(time.Minute)
	p.settle(root, tenant)
	return p
}

// settle notes a new tenant.
func (p *play) settle(by commands.By, tenant commands.NewTenant) {
	p.places = append(p.places, place{by, tenant.Key.ProjectID})
	p.keys = append(p.keys, known{by, tenant.Key.ID, tenant.Secret})
}

// do carries one action out and judges its refusal.
func (p *play) do(t fataler, r *replica, a action) {
	for _, k := range actions {
		if k.name != a.Kind {
			continue
		}
		happened, err := k.run(p, r, a)
		if err != nil && !expected[domain.CodeOf(err)] {
			t.Errorf("%+v: %v", a, err)
		}
		if happened {
			p.mu.Lock()
			p.done[k.name]++
			p.mu.Unlock()
		}
	}
}

// expected are the refusals that a sequence of sound requests can meet.
var expected = map[domain.Code]bool{
	domain.CodeKeyNotActive: true, domain.CodeRotationInProgress: true, domain.CodeTooManyInGrace: true,
	domain.CodeNoRotation: true, domain.CodeRotationState: true, domain.CodeVersionConflict: true, domain.CodeValidation: true, domain.CodeProjectNotEmpty: true,
}

// gone forgives that a project was deleted by somebody else since it was picked.
func (p *play) gone(err error) error {
	if !p.alone && domain.CodeOf(err) == domain.CodeNotFound {
		return nil
	}
	return err
}

// pick takes one of what there is. Small numbers, which rapid draws most, take what is new: there is the life.
func pick[T any](p *play, a action, from *[]T) (T, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(*from)
	if n == 0 {
		var none T
		return none, false
	}
	return (*from)[n-1-a.Pick%n], true
}

func add[T any](p *play, to *[]T, value T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*to = append(*to, value)
}

func (p *play) create(r *replica, a action) (bool, error) {
	at, _ := pick(p, a, &p.places)
	happened, err := p.createIn(r, at, a)
	return happened, p.gone(err)
}

func (p *play) createIn(r *replica, at place, a action) (bool, error) {
	c := commands.CreateKey{ProjectID: at.id, Name: "ci", RotationIntervalSeconds: a.Interval, WebhookURL: a.Webhook, Metadata: []byte(`{"n":1}`)}
	if a.Life != 0 {
		c.ExpiresAt = p.w.clock.in(a.Life)
	}
	if grace := int64(a.Grace / time.Second); a.Flag && (a.Interval == 0 || grace < a.Interval) {
		c.GraceSeconds = &grace
	}
	created, err := r.CreateKey(context.Background(), at.by, c)
	if err != nil {
		return false, err
	}
	add(p, &p.keys, known{at.by, created.Key.ID, created.Secret})
	p.hook(created.Key, created.WebhookSecret)
	return true, nil
}

// hook notes the signing secret of a key's receiver.
func (p *play) hook(key *projections.Key, secret webhook.Secret) {
	if secret.IsZero() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks[*key.EndpointID] = secret
}

func (p *play) update(r *replica, a action) (bool, error) {
	k, _ := pick(p, a, &p.keys)
	before, err := r.reader.Key(context.Background(), projections.ReachOf(k.by.Caller), k.id)
	if err != nil {
		return false, err
	}
	c := domain.UpdateKey{KeyID: k.id, RotationIntervalSeconds: domain.ChangeTo(a.Interval)}
	by := k.by
	switch a.Pick % 4 {
	case 0:
		c.Name, by.Expected = domain.ChangeTo(fmt.Sprint("name ", a.Pick)), &before.Version
	case 1:
		c.WebhookURL = domain.ChangeTo(a.Webhook)
	case 2:
		c.ExpiresAt = domain.ChangeTo[*time.Time](nil)
		if a.Life != 0 {
			c.ExpiresAt.Value = p.w.clock.in(a.Life)
		}
	default:
		c.GraceSeconds = domain.ChangeTo(int64(a.Grace / time.Second))
	}
	after, secret, err := r.UpdateKey(context.Background(), by, c)
	if err == nil && p.alone { // in company the key that is answered can be of a later edit, with another receiver
		p.hook(after, secret)
	}
	return err == nil && after.Version > before.Version, err
}

func (p *play) rotate(r *replica, a action) (bool, error) {
	k, _ := pick(p, a, &p.keys)
	rotated, err := r.RotateKey(context.Background(), k.by, commands.RotateKey{KeyID: k.id, Grace: &a.Grace, Supersede: a.Flag})
	if err != nil {
		return false, err
	}
	add(p, &p.keys, known{k.by, rotated.Rotated.KeyID, rotated.Secret})
	return true, nil
}

// sweep carries out some of what is due. Another replica may be at the same work.
func (p *play) sweep(r *replica, a action) (bool, error) {
	due, err := r.reader.Due(context.Background(), p.w.clock.Now(), 1+a.Pick%20)
	if err != nil {
		return false, err
	}
	happened := false
	for _, outcome := range r.Sweep(context.Background(), due) {
		if outcome.Err != nil {
			err = outcome.Err
		}
		for _, record := range outcome.Records {
			happened = true
			p.noteRotation(record)
		}
	}
	return happened, err
}

func (p *play) noteRotation(record eventstore.Record) {
	d, ok := record.Data.(domain.Rotated)
	if !ok {
		return
	}
	by := commands.By{Caller: domain.Caller{OrganizationID: record.OrganizationID, Scopes: domain.Scopes{"*"}, Operator: true}}
	w := waiting{by, domain.LineageID(record.StreamID), d.RotationID, d.PreviousKeyID}
	add(p, &p.rotations, w)
	if d.EndpointID == "" {
		add(p, &p.claimable, w)
	}
	add(p, &p.keys, known{by: by, id: d.KeyID})
}

func (p *play) step(_ *replica, a action) (bool, error) {
	p.w.clock.step(a.Step)
	return true, nil
}

func (p *play) acknowledge(r *replica, a action) (bool, error) {
	w, ok := pick(p, a, &p.rotations)
	if !ok {
		return false, nil
	}
	return r.Acknowledge(context.Background(), commands.System(domain.ActorDeliver), w.lineage, w.rotation, domain.AckAccepted, nil)
}

func (p *play) stall(r *replica, a action) (bool, error) {
	w, ok := pick(p, a, &p.rotations)
	if !ok {
		return false, nil
	}
	return r.Stall(context.Background(), commands.System(domain.ActorDeliver), w.lineage, w.rotation, "gone", nil)
}

// firstUse is a receiver that got the new secret and uses it.
func (p *play) firstUse(r *replica, a action) (bool, error) {
	w, ok := pick(p, a, &p.rotations)
	if !ok {
		return false, nil
	}
	secret, err := r.OpenPending(context.Background(), w.rotation)
	if err != nil || secret.IsZero() {
		return false, err
	}
	key, err := r.verifier.Authenticate(context.Background(), secret.Reveal())
	if err != nil || key == nil {
		return false, err
	}
	r.FirstUse(key)
	return true, nil
}

func (p *play) claim(r *replica, a action) (bool, error) {
	w, ok := pick(p, a, &p.claimable)
	if !ok {
		return false, nil
	}
	presented, err := r.reader.Key(context.Background(), projections.ReachOf(w.by.Caller), w.from)
	if err != nil {
		return false, err
	}
	claimed, err := r.ClaimSuccessor(context.Background(), w.by, presented)
	if err != nil {
		return false, err
	}
	add(p, &p.keys, known{w.by, claimed.Acknowledged.KeyID, claimed.Secret})
	p.mu.Lock()
	p.claimed[claimed.Acknowledged.RotationID]++
	p.mu.Unlock()
	return true, nil
}

func (p *play) revoke(r *replica, a action) (bool, error) {
	k, _ := pick(p, a, &p.keys)
	before, err := r.reader.Key(context.Background(), projections.ReachOf(k.by.Caller), k.id)
	if err != nil {
		return false, err
	}
	if err := r.RevokeKey(context.Background(), k.by, k.id, "lost"); err != nil {
		return false, err
	}
	if !before.State.Live() {
		return false, nil // an ended key is revoked again: fine, and nothing happens
	}
	add(p, &p.revoked, k.id)
	return true, nil
}

// leak reports a key whose secret was found somewhere.
func (p *play) leak(r *replica, a action) (bool, error) {
	k, _ := pick(p, a, &p.keys)
	leak := commands.Leak{Secret: k.secret.Reveal(), Source: "test", URL: sprintf("https://example.com/%d", a.Pick%3)}
	outcomes, err := r.ReportLeaks(context.Background(), "", []commands.Leak{leak})
	return err == nil && outcomes[0].Known, err
}
