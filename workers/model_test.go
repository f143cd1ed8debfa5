package workers

import (
	"flag"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/domain"
)

// loud says at once what fails: where processes race, the sequence may not fail again, and rapid then keeps it to itself.
type loud struct {
	*rapid.T
	t *testing.T
}

func (l loud) Errorf(format string, args ...any) {
	l.t.Helper()
	l.t.Logf(format, args...)
	l.T.Errorf(format, args...)
}

func (l loud) Fatalf(format string, args ...any) {
	l.t.Helper()
	l.t.Logf(format, args...)
	l.T.Fatalf(format, args...)
}

// modelChecks sets how many sequences rapid draws.
func modelChecks(t *testing.T) {
	t.Helper()
	n := "6"
	if os.Getenv("REKEY_SOAK") == "1" {
		n = "300"
	}
	for name, value := range map[string]string{"rapid.checks": n, "rapid.nofailfile": "true", "rapid.shrinktime": "1s"} {
		former := flag.Lookup(name).Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flag.Set(name, former) })
	}
}

// G2, G3, R-48, R-54, R-60, R-68: whatever is commanded, however receivers behave, whatever the clock does and whenever
// workers are killed, no key ends before its successor is known to have arrived, no rotation waits without somebody or
// something that moves it on, and the tables are what the log says. Once everybody works again, everything ends.
func TestG2ModelOfRotations(t *testing.T) {
	modelChecks(t)
	m := newModel(t)
	enough := time.Now().Add(30 * time.Second)
	rapid.Check(t, func(drawn *rapid.T) {
		if os.Getenv("REKEY_SOAK") != "1" && time.Now().After(enough) { // on a busy machine fewer will do
			return
		}
		rt := loud{drawn, t}
		policy := rapid.SampledFrom([]domain.TimeoutAction{domain.TimeoutHold, domain.TimeoutRollback, domain.TimeoutExpireOld}).Draw(drawn, "policy")
		end := m.begin(rt, policy)
		defer end()
		for _, a := range rapid.SliceOfN(drawModelAction, 30, 50).Draw(drawn, "actions") {
			m.do(rt, a)
			m.round(rt, a)
			m.assertTruth(rt)
			if rt.Failed() {
				m.dump()
				rt.Fatalf("after %+v", a)
			}
		}
		m.recover(rt)
		m.assertTruth(rt)
		for what, n := range m.left(rt) {
			rt.Errorf("in the end: %d %s", n, what)
		}
		if rt.Failed() {
			m.dump()
		}
	})
	t.Logf("done: %v, killed %d", m.done, m.killed)
	for _, k := range modelKinds {
		if m.done[k.name] == 0 && os.Getenv("REKEY_SOAK") == "1" { // a few sequences need not meet everything
			t.Errorf("%s never happened", k.name)
		}
	}
	if m.killed == 0 {
		t.Error("no process was killed")
	}
}
