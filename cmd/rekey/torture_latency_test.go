package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/projections/verifier"
)

// TestRevokeLatency measures revokes with three replicas that are well, and then with one that is frozen: that one holds a
// revoke up until its lease has run out, not shorter and not much longer, and nobody after that.
func TestRevokeLatency(t *testing.T) {
	t.Parallel()
	x := newTorture(t, false)
	var took []time.Duration
	for range 200 {
		took = append(took, x.revokeOne(t, x.some()))
	}
	slices.Sort(took)
	t.Logf("%d revokes, three replicas well: p50 %s, p99 %s, at most %s", len(took),
		took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))

	conn, err := pgx.Connect(t.Context(), x.postgres.TCPURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for range 3 {
		frozen := x.replicas[rand.IntN(len(x.replicas))]
		key := x.replicas[0].create(t, "victim", nil)
		within(t, patience, "it answers from memory", frozen.trusted)
		frozen.freeze()
		// A renewal that was under way can only make this later than what is read here.
		lease, _ := leaseOf(t, conn, frozen)
		other := x.replicas[0]
		if other == frozen {
			other = x.replicas[1]
		}
		began := time.Now()
		for !other.tryCall(t, "DELETE", "/v1/api-keys/"+key.ID, nil, http.StatusNoContent, nil) {
			began = time.Now() // it froze inside a transaction, and nothing was done
		}
		held := time.Since(began)
		_, now := leaseOf(t, conn, frozen)
		fast := x.revokeOne(t, other)
		frozen.thaw()
		t.Logf("one frozen: the revoke took %s, the next %s", held.Round(time.Millisecond), fast.Round(time.Millisecond))
		if now.Before(lease) {
			t.Errorf("the revoke was answered %s before the frozen replica's lease can have run out", lease.Sub(now))
		}
		if bound := 2*verifier.TTL + 2*time.Second; held > bound {
			t.Errorf("the revoke took %s, more than %s", held, bound)
		}
		if v := frozen.verify(t, key.Key); v.Code != "REVOKED" {
			t.Errorf("the replica that was frozen says %s", v)
		}
	}
}

// leaseOf is when a replica's lease runs out, and what time it is now, both by the clock of Postgres.
func leaseOf(t testing.TB, conn *pgx.Conn, r *replica) (until, now time.Time) {
	t.Helper()
	err := conn.QueryRow(t.Context(), "SELECT max(expires_at), clock_timestamp() FROM verifier_leases WHERE name = $1", r.addr).Scan(&until, &now)
	if err != nil {
		t.Fatal(err)
	}
	return until, now
}

// revokeOne makes a key that every replica knows which is well, and tells how long its revoke took.
func (x *torture) revokeOne(t testing.TB, at *replica) time.Duration {
	t.Helper()
	key := at.create(t, "victim", nil)
	began := time.Now()
	at.call(t, "DELETE", "/v1/api-keys/"+key.ID, nil, http.StatusNoContent, nil)
	return time.Since(began)
}
