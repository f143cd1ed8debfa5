package commands_test

import (
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// a successor that waited until the key of its day was destroyed can be read by nobody. The old key that comes for it
// all the same gets another one.
func TestClaimSuccessorAfterItsEpoch(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, tenant := w.root(t)
	by := commands.By{Caller: tenant.Key.Caller(), RequestID: "req_test"}
	created := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 3600})
	first := w.rotateDue(t, created.Key)
	w.clock.step(40 * 24 * time.Hour)
	if n, err := w.EndEpochs(t.Context()); err != nil || n != 1 {
		t.Fatalf("%d epochs ended, %v", n, err)
	}
	claimed, err := w.ClaimSuccessor(t.Context(), by, w.key(t, by, created.Key.ID))
	if err != nil {
		t.Fatal(err)
	}
	if claimed.Acknowledged.RotationID == first {
		t.Error("it is the one that nobody can read")
	}
	if v := w.verdict(t, by, claimed.Secret); v.Status != domain.StatusActive {
		t.Errorf("what was fetched is %s", v.Status)
	}
	if v := w.verdict(t, by, created.Secret); v.Status != domain.StatusGrace {
		t.Errorf("the old key is %s", v.Status)
	}
	if state := one[string](t, w, `SELECT state FROM rotations WHERE id = $1`, first); state != string(domain.RotationSuperseded) {
		t.Errorf("the first rotation is %s", state)
	}
}
