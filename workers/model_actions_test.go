package workers

import (
	"context"
	"math/rand/v2"
	"time"

	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// modelAction is one thing that happens. What it happens to is picked from what there is then.
type modelAction struct {
	Kind   string
	Pick   int
	Writes int
	Step   time.Duration
	Grace  time.Duration
	Manner string
	Flag   bool
}

// modelKinds are what can happen, and how often. They report whether something did, and the refusal if not.
var modelKinds = []struct {
	name   string
	weight int
	run    func(*model, fataler, modelAction) (bool, error)
}{
	{"step", 8, (*model).doStep},
	{"manner", 8, (*model).doManner},
	{"rotate", 2, (*model).doRotate},
	{"cancel", 2, (*model).doCancel},
	{"roll back", 2, (*model).doRollBack},
	{"change grace", 1, (*model).doChangeGrace},
	{"end grace", 1, (*model).doEndGrace},
	{"use an old key", 1, (*model).doUseOld},
	{"retire unused", 2, (*model).doRetireUnused},
	{"force", 2, (*model).doForce},
	{"revoke", 1, (*model).doRevoke},
	{"redeliver", 3, (*model).doRedeliver},
	{"redeliver a delivery", 2, (*model).doRedeliverDelivery},
	{"pause or resume", 2, (*model).doPause},
	{"disable or enable", 2, (*model).doDisable},
	{"receiver key", 1, (*model).doReceiverKey},
	{"secret mode", 1, (*model).doMode},
	{"first use", 3, (*model).doFirstUse},
	{"claim", 3, (*model).doClaim},
	{"kill between statements", 3, (*model).doKill},
	{"kill in the post", 2, (*model).doKillInPost},
	{"upkeep", 1, (*model).doUpkeep},
}

var drawModelAction = rapid.Custom(func(t *rapid.T) modelAction {
	var names []string
	for _, k := range modelKinds {
		for range k.weight {
			names = append(names, k.name)
		}
	}
	// Rapid draws small numbers most; here all that can happen should.
	even := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	steps := []time.Duration{
		time.Second, 25 * time.Second, 3 * time.Minute, time.Hour, 6 * time.Hour, 26 * time.Hour, 26 * time.Hour, 4 * 24 * time.Hour, -time.Hour,
	}
	graces := []time.Duration{0, time.Minute, time.Hour, 48 * time.Hour}
	return modelAction{
		Kind: names[even.IntN(len(names))], Pick: even.IntN(1000), Writes: even.IntN(40), Step: steps[even.IntN(len(steps))],
		Grace: graces[even.IntN(len(graces))], Manner: manners[even.IntN(len(manners))], Flag: even.IntN(2) == 0,
	}
})

// modelRefusals are those that a sequence of sound requests can meet.
var modelRefusals = map[domain.Code]bool{
	domain.CodeKeyNotActive: true, domain.CodeRotationInProgress: true, domain.CodeTooManyInGrace: true, domain.CodeNoRotation: true,
	domain.CodeRotationState: true, domain.CodeVersionConflict: true, domain.CodeEndpointState: true, domain.CodeValidation: true,
	domain.CodeNotFound: true,
}

// do carries one action out, as the API process would.
func (m *model) do(t fataler, a modelAction) {
	t.Helper()
	for _, k := range modelKinds {
		if k.name != a.Kind {
			continue
		}
		happened, err := k.run(m, t, a)
		if err != nil && !modelRefusals[domain.CodeOf(err)] {
			t.Errorf("%+v: %v", a, err)
		}
		if happened && err == nil {
			m.done[k.name]++
		}
	}
}

func pickOf[T any](a modelAction, from []T) (picked T, ok bool) {
	if len(from) == 0 {
		return picked, false
	}
	return from[a.Pick%len(from)], true
}

func (m *model) doStep(_ fataler, a modelAction) (bool, error) {
	m.clock.step(a.Step)
	return true, nil
}

func (m *model) doManner(_ fataler, a modelAction) (bool, error) {
	r, _ := pickOf(a, m.receivers)
	r.behave(a.Manner)
	return true, nil
}

// active is the active key of a lineage; a lineage that has ended is replaced by another one.
func (m *model) active(t fataler, a modelAction) (*modelLine, domain.KeyID) {
	line, _ := pickOf(a, m.lines)
	key := ask[*domain.KeyID](t, m, `SELECT min(id) FROM keys WHERE lineage_id = $1 AND state = 'active'`, line.id)
	if key == nil {
		return line, ""
	}
	return line, *key
}

func (m *model) doRotate(t fataler, a modelAction) (bool, error) {
	line, key := m.active(t, a)
	if key == "" {
		return false, nil
	}
	c := commands.RotateKey{KeyID: key, Grace: &a.Grace, Supersede: a.Flag, Compromised: a.Writes%8 == 0}
	if c.Compromised {
		c.Grace = nil
	}
	rotated, err := m.service.RotateKey(context.Background(), m.tenant, c)
	if err == nil {
		line.secrets[rotated.Rotated.KeyID] = rotated.Secret.Reveal()
	}
	return true, err
}

// onRotation does something to a rotation in some states.
func (m *model) onRotation(t fataler, a modelAction, do func(domain.RotationID) error, states ...string) (bool, error) {
	id, ok := pickOf(a, all[domain.RotationID](t, m, `SELECT id FROM rotations WHERE state = ANY($1) ORDER BY id DESC`, states))
	if !ok {
		return false, nil
	}
	return true, do(id)
}

var modelWaits = []string{"delivering", "stalled"}

func (m *model) doCancel(t fataler, a modelAction) (bool, error) {
	return m.onRotation(t, a, func(id domain.RotationID) error {
		_, err := m.service.CancelRotation(context.Background(), m.tenant, id, "not now")
		return err
	}, modelWaits...)
}

func (m *model) doForce(t fataler, a modelAction) (bool, error) {
	return m.onRotation(t, a, func(id domain.RotationID) error {
		_, err := m.service.ForceRotation(context.Background(), m.tenant, id)
		if err == nil {
			m.used[id] = domain.AckForced
		}
		return err
	}, modelWaits...)
}

func (m *model) doRollBack(t fataler, a modelAction) (bool, error) {
	return m.onRotation(t, a, func(id domain.RotationID) error {
		_, err := m.service.RollBackRotation(context.Background(), m.tenant, id)
		return err
	}, "overlap")
}

func (m *model) doChangeGrace(t fataler, a modelAction) (bool, error) {
	return m.onRotation(t, a, func(id domain.RotationID) error {
		_, err := m.service.ChangeGrace(context.Background(), m.tenant, id, m.clock.Now().Add(a.Grace+time.Minute))
		return err
	}, "overlap")
}

func (m *model) doEndGrace(t fataler, a modelAction) (bool, error) {
	return m.onRotation(t, a, func(id domain.RotationID) error {
		_, err := m.service.EndGrace(context.Background(), m.tenant, id)
		return err
	}, "overlap")
}

// modelEarlyRetire is what the model's policy says of old keys that nobody uses.
const modelEarlyRetire = time.Hour

// doUseOld notes the use of a key in grace.
func (m *model) doUseOld(t fataler, a modelAction) (bool, error) {
	id, ok := pickOf(a, all[domain.KeyID](t, m, `SELECT id FROM keys WHERE state = 'grace' ORDER BY id`))
	if !ok {
		return false, nil
	}
	now := m.clock.Now()
	if last, used := m.lastUse[id]; !used || now.After(last) {
		m.lastUse[id] = now
	}
	_, err := m.owner.Exec(context.Background(), `INSERT INTO key_usage (key_id, organization_id, last_used_at, use_count) VALUES ($1, 'org_x', $2, 1)
		ON CONFLICT (key_id) DO UPDATE SET last_used_at = greatest(key_usage.last_used_at, excluded.last_used_at)`, id, now)
	if err != nil {
		t.Fatalf("note a use: %v", err)
	}
	return true, nil
}

// doRetireUnused is a look for old keys that nobody uses, where all uses are known.
func (m *model) doRetireUnused(t fataler, a modelAction) (bool, error) {
	_, err := m.owner.Exec(context.Background(), `INSERT INTO usage_flushes (boot_id, number, flushed_at, complete_until, applied_until, ended)
		SELECT 'boot_model', 1, at, at, at, false FROM (SELECT now() + interval '1 day' AS at) a ON CONFLICT DO NOTHING`)
	if err != nil {
		t.Fatalf("say that all uses are known: %v", err)
	}
	const ended = `SELECT count(*) FROM events WHERE type = 'GraceExpired' AND data->>'reason' = 'unused'`
	before := ask[int](t, m, ended)
	p, _ := pickOf(a, m.processes)
	if err := p.w.retireUnused(context.Background()); err != nil && !p.line.dead() {
		t.Errorf("retire unused keys: %v", err)
	}
	return ask[int](t, m, ended) > before, nil
}

// doRevoke revokes any live key. A lineage that ends by that is replaced.
func (m *model) doRevoke(t fataler, a modelAction) (bool, error) {
	line, active := m.active(t, a)
	id, ok := pickOf(modelAction{Pick: a.Writes}, all[domain.KeyID](t, m,
		`SELECT id FROM keys WHERE lineage_id = $1 AND state IN ('pending', 'active', 'grace') ORDER BY state DESC, id`, line.id))
	if !ok {
		return false, nil
	}
	if err := m.service.RevokeKey(context.Background(), m.tenant, id, "lost"); err != nil {
		return false, err
	}
	if id == active && (line.receiver == nil || line.receiver != m.receivers[3]) { // an address of its own belongs to one key
		m.line(t, line.receiver)
	}
	return true, nil
}

func (m *model) doRedeliver(t fataler, a modelAction) (bool, error) {
	return m.onRotation(t, a, func(id domain.RotationID) error {
		_, err := m.service.RedeliverRotation(context.Background(), m.tenant, id, a.Writes%4 == 0)
		return err
	}, modelWaits...)
}

func (m *model) doRedeliverDelivery(t fataler, a modelAction) (bool, error) {
	id, ok := pickOf(a, all[projections.DeliveryID](t, m, `SELECT id FROM webhook_deliveries ORDER BY id DESC`))
	if !ok {
		return false, nil
	}
	if a.Flag {
		_, err := m.service.Redeliver(context.Background(), m.tenant, id)
		return true, err
	}
	r, _ := pickOf(a, m.receivers)
	_, err := m.service.RedeliverSpan(context.Background(), m.tenant, commands.RedeliverSpan{
		EndpointID: r.endpoint, From: m.clock.Now().Add(-24 * time.Hour), To: m.clock.Now().Add(time.Hour), Delivered: a.Writes%2 == 0,
	})
	return true, err
}

func (m *model) doPause(_ fataler, a modelAction) (bool, error) {
	r, _ := pickOf(a, m.receivers)
	_, err := m.service.PauseEndpoint(context.Background(), m.tenant, r.endpoint, "maintenance")
	if a.Flag || err != nil {
		_, err = m.service.ResumeEndpoint(context.Background(), m.tenant, r.endpoint)
	}
	return true, err
}

func (m *model) doDisable(_ fataler, a modelAction) (bool, error) {
	r, _ := pickOf(a, m.receivers)
	if a.Flag {
		_, err := m.service.DisableEndpoint(context.Background(), m.tenant, r.endpoint, "moved")
		return true, err
	}
	if _, err := m.service.EnableEndpoint(context.Background(), m.tenant, r.endpoint); err != nil {
		return false, err
	}
	_, err := m.service.VerifyEndpoint(context.Background(), m.tenant, r.endpoint)
	return true, err
}

// doReceiverKey registers another key of a receiver, which keeps the former one.
func (m *model) doReceiverKey(t fataler, a modelAction) (bool, error) {
	r := m.receivers[1]
	other, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatalf("make a receiver key: %v", err)
	}
	r.mu.Lock()
	r.private = append(r.private, other)
	r.mu.Unlock()
	if _, err := m.service.UpdateEndpoint(context.Background(), m.tenant, updateReceiverKey(r.endpoint, other.Public().String())); err != nil {
		return false, err
	}
	_, err = m.service.VerifyEndpoint(context.Background(), m.tenant, r.endpoint)
	return true, err
}

// doMode gives an endpoint another way for secrets to travel, and another demand.
func (m *model) doMode(_ fataler, a modelAction) (bool, error) {
	r := m.receivers[a.Pick%3]
	modes := []domain.SecretMode{domain.SecretPlain, domain.SecretSealed, domain.SecretClaim}
	levels := []domain.AckLevel{domain.AckAccepted, domain.AckProof, domain.AckFirstUse}
	_, err := m.service.UpdateEndpoint(context.Background(), m.tenant, commands.UpdateEndpoint{
		ID: r.endpoint, SecretMode: domain.ChangeTo(modes[a.Writes%3]), AckLevel: domain.ChangeTo(levels[a.Writes/3%3]),
	})
	return true, err
}
