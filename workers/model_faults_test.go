package workers

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// doFirstUse lets somebody use the secrets that receivers have got.
func (m *model) doFirstUse(t fataler, _ modelAction) (bool, error) {
	happened := false
	for _, r := range m.receivers {
		used, err := m.firstUse(t, r)
		if err != nil {
			return true, err
		}
		happened = happened || used
	}
	return happened, nil
}

// firstUse uses all secrets of a receiver whose rotations wait.
func (m *model) firstUse(t fataler, r *modelReceiver) (happened bool, err error) {
	for id, secret := range r.held() {
		key, err := m.verifier.Authenticate(context.Background(), secret)
		if err != nil {
			return false, err
		}
		if key == nil || key.State != domain.GenerationPending {
			continue
		}
		happened, m.used[domain.RotationID(id)] = true, domain.AckFirstUse
		m.service.FirstUse(key)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if ask[bool](t, m, `SELECT state NOT IN ('delivering', 'stalled') FROM rotations WHERE id = $1`, id) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the first use of %s acknowledges nothing", id)
			}
		}
	}
	return happened, nil
}

func (r *modelReceiver) held() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]string{}
	for id, secret := range r.secrets {
		out[id] = secret
	}
	return out
}

// doClaim fetches secrets at the addresses that a receiver was sent, and the successors of keys without a receiver.
func (m *model) doClaim(t fataler, a modelAction) (bool, error) {
	for _, line := range m.lines {
		if line.receiver == nil {
			if err := m.claimSuccessor(line); err != nil && !modelRefusals[domain.CodeOf(err)] {
				return true, err
			}
		}
	}
	for _, r := range m.receivers {
		if err := m.claim(r); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (m *model) claim(r *modelReceiver) error {
	r.mu.Lock()
	tokens := r.tokens
	r.tokens = map[string]string{}
	r.mu.Unlock()
	for id, token := range tokens {
		claimed, err := m.service.ClaimSecret(context.Background(), "", token)
		if domain.CodeOf(err) == domain.CodeNotFound && err != nil {
			continue // it ended meanwhile
		}
		if err != nil {
			return err
		}
		m.used[domain.RotationID(id)] = domain.AckClaim
		r.mu.Lock()
		r.secrets[id] = claimed.Secret.Reveal()
		r.mu.Unlock()
	}
	return nil
}

// claimSuccessor lets the active key of a lineage fetch its successor.
func (m *model) claimSuccessor(line *modelLine) error {
	for _, secret := range line.secrets {
		key, err := m.verifier.Authenticate(context.Background(), secret)
		if err != nil || key == nil || key.State != domain.GenerationActive {
			continue
		}
		claimed, err := m.service.ClaimSuccessor(context.Background(), m.tenant, key)
		if err != nil {
			return err
		}
		line.secrets[claimed.Acknowledged.KeyID] = claimed.Secret.Reveal()
		m.used[claimed.Acknowledged.RotationID] = domain.AckClaim
		return nil
	}
	return nil
}

// doKill kills a process between two of the statements that it will send.
func (m *model) doKill(_ fataler, a modelAction) (bool, error) {
	p, _ := pickOf(a, m.processes)
	p.line.killAfter(a.Writes)
	return true, nil
}

// doKillInPost kills all processes while a receiver has a message and has not answered. Then it answers to nobody.
func (m *model) doKillInPost(t fataler, a modelAction) (bool, error) {
	r, _ := pickOf(a, m.receivers)
	r.behave(hangs)
	m.clock.step(7 * time.Hour) // something is due for it
	m.sweep(t, a)
	m.settle(t)
	under := r.hang() > 0
	for _, p := range m.processes {
		p.line.kill()
	}
	r.behave(a.Manner)
	return under, nil
}

// doUpkeep is the work of each minute, and now and then the destruction of epochs.
func (m *model) doUpkeep(t fataler, a modelAction) (bool, error) {
	p, _ := pickOf(a, m.processes)
	if err := (&maintainWorker{w: p.w}).Work(context.Background(), nil); err != nil && !p.line.dead() {
		t.Errorf("upkeep: %v", err)
	}
	return true, nil
}

// sweep is the work of each second, in one of the processes.
func (m *model) sweep(t fataler, a modelAction) {
	t.Helper()
	p, _ := pickOf(a, m.processes)
	if err := (&sweepWorker{w: p.w}).Work(context.Background(), nil); err != nil && !p.line.dead() {
		t.Errorf("sweep: %v", err)
	}
}

// recover is the world made well again: nothing new begins, every receiver works, and whoever should act does.
func (m *model) recover(t fataler) {
	t.Helper()
	ctx := context.Background()
	for _, p := range m.processes {
		p.line.killAfter(-1)
	}
	for _, line := range m.lines {
		if key := ask[*domain.KeyID](t, m, `SELECT min(id) FROM keys WHERE lineage_id = $1 AND state = 'active'`, line.id); key != nil {
			if _, _, err := m.service.UpdateKey(ctx, m.tenant, domain.UpdateKey{KeyID: *key, RotationIntervalSeconds: domain.ChangeTo[int64](0)}); err != nil {
				t.Errorf("end the interval of %s: %v", *key, err)
			}
		}
	}
	m.handOut(t)
	for _, r := range m.receivers {
		r.behave(proves)
		_, _ = m.service.ResumeEndpoint(ctx, m.tenant, r.endpoint)
		_, _ = m.service.EnableEndpoint(ctx, m.tenant, r.endpoint)
		if probe, err := m.service.VerifyEndpoint(ctx, m.tenant, r.endpoint); err != nil || !probe.Outcome.Delivered() {
			t.Errorf("a receiver that works does not prove itself: %+v, %v", probe, err)
		}
	}
	for _, id := range all[domain.RotationID](t, m, `SELECT id FROM rotations WHERE state IN ('delivering', 'stalled') AND endpoint_id IS NOT NULL`) {
		if _, err := m.service.RedeliverRotation(ctx, m.tenant, id, false); err != nil && domain.CodeOf(err) != domain.CodeRotationState {
			t.Errorf("redeliver %s: %v", id, err)
		}
	}
	for range 8 { // leases lapse, breakers close, what was put off comes
		m.round(t, modelAction{})
		m.clock.step(20 * time.Minute)
	}
	for range 3 {
		if _, err := m.doClaim(t, modelAction{}); err != nil {
			t.Errorf("claim: %v", err)
		}
		if _, err := m.doFirstUse(t, modelAction{}); err != nil {
			t.Errorf("first use: %v", err)
		}
		m.round(t, modelAction{})
	}
	m.clock.step(domain.MaxGrace + 24*time.Hour)
	// What ends now is told, and that may be put off in its turn: a few rounds as a rule, and no end of them is a failure.
	for range 12 {
		m.round(t, modelAction{})
		m.clock.step(20 * time.Minute)
		if len(m.left(t)) == 0 {
			return
		}
	}
}

// handOut rotates keys without a receiver of which nobody holds the active one, because a rotation was forced whose secret
// nobody had fetched. That is what whoever forces takes upon himself.
func (m *model) handOut(t fataler) {
	t.Helper()
	for _, line := range m.lines {
		key := ask[*domain.KeyID](t, m, `SELECT min(id) FROM keys WHERE lineage_id = $1 AND state = 'active'`, line.id)
		if line.receiver != nil || key == nil || line.secrets[*key] != "" {
			continue
		}
		rotated, err := m.service.RotateKey(context.Background(), m.tenant, commands.RotateKey{KeyID: *key, Grace: new(time.Duration), Supersede: true})
		if err != nil {
			t.Errorf("rotate %s: %v", *key, err)
			continue
		}
		line.secrets[rotated.Rotated.KeyID] = rotated.Secret.Reveal()
	}
}

// round is a moment of the processes' own work.
func (m *model) round(t fataler, a modelAction) {
	t.Helper()
	m.bury(m.t)
	m.sweep(t, a)
	m.settle(t)
	p, _ := pickOf(a, m.processes)
	for before := int64(-1); ; { // a late answer of a receiver may get a rotation stuck after this has looked
		head := ask[int64](t, m, `SELECT coalesce(max(position), 0) FROM events WHERE lane = 1`)
		if head == before {
			return
		}
		before = head
		if err := p.w.stallStuck(context.Background()); err != nil && !p.line.dead() {
			t.Errorf("look for stuck rotations: %v", err)
		}
		m.settle(t)
	}
}

// status is how a secret is judged.
func (m *model) status(t fataler, secret string) projections.Verdict {
	t.Helper()
	verdict, err := m.verifier.Verify(context.Background(), projections.VerifyRequest{
		Reach: projections.Reach{Organization: m.tenant.Caller.OrganizationID}, Secret: secret,
	})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	return verdict
}
