package embedded_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/client"
	"github.com/rekeyhq/rekey/domain"
)

const (
	// sqlBare drops what would have to be kept up to date for each key, and is not looked at here.
	sqlBare = `DO $$ DECLARE i regclass; BEGIN
		FOR i IN SELECT indexrelid FROM pg_index WHERE indrelid = 'keys'::regclass AND NOT indisprimary
			AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) LOOP EXECUTE 'DROP INDEX ' || i; END LOOP; END $$`
	// sqlColumns lists those columns of keys that can be written.
	sqlColumns = `SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) FROM information_schema.columns WHERE table_name = 'keys' AND is_generated = 'NEVER'`
	// sqlBenchKeys makes keys that differ from one that is there in nothing but ids, names and secrets.
	sqlBenchKeys = `INSERT INTO keys (%s) SELECT %s FROM (SELECT * FROM keys WHERE id = $1) AS k, bench`
)

// own are the columns that each key has its own value of.
var own = strings.NewReplacer("k.id,", "bench.id,", "k.lineage_id,", "bench.lineage_id,", "k.name,", "bench.name,", "k.secret_digest,", "bench.digest,")

// BenchmarkVerify compares a verify from memory with the SHA-256 of the same secret, in the same run and in turns, because
// machines are noisy: x_sha256 is how many times its time it takes. "hot" verifies a thousand keys of those there are, as
// services mostly do; "any" verifies all of 65,536 in random order, which with a million in memory waits for memory itself.
func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			w := setup(b)
			secrets := w.fill(b, n)
			v := w.open(b, w.key(b, holding(domain.ScopeKeysVerify)))
			w.has(b, v, n+3) // the root key, the own one, and the one that the others are like
			b.Run("hot", func(b *testing.B) { compare(b, v, secrets[:1000]) })
			b.Run("any", func(b *testing.B) { compare(b, v, secrets) })
		})
	}
}

func compare(b *testing.B, v client.Verifier, secrets []string) {
	const turn = 200
	var hashing, verifying []time.Duration
	var buffer [128]byte
	// The first use of a key makes room for its count.
	for _, s := range secrets {
		if _, err := v.Verify(b.Context(), client.Request{Secret: client.NewSecret(s)}); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	for b.Loop() {
		from := rand.IntN(len(secrets))
		began := time.Now()
		for i := range turn {
			sum := sha256.Sum256(append(buffer[:0], secrets[(from+i)%len(secrets)]...))
			runtime.KeepAlive(&sum)
		}
		hashing = append(hashing, time.Since(began))
		began = time.Now()
		for i := range turn {
			verdict, err := v.Verify(b.Context(), client.Request{Secret: client.NewSecret(secrets[(from+i)%len(secrets)])})
			if err != nil || !verdict.Valid {
				b.Fatalf("%s, %v", verdict.Code, err)
			}
		}
		verifying = append(verifying, time.Since(began))
	}
	// Of all turns the median: on a machine that others use too, a few last a thousand times as long.
	slices.Sort(hashing)
	slices.Sort(verifying)
	sha, verify := float64(hashing[len(hashing)/2])/turn, float64(verifying[len(verifying)/2])/turn
	b.ReportMetric(0, "ns/op") // of a whole turn: it says nothing
	b.ReportMetric(sha, "sha256-ns")
	b.ReportMetric(verify, "verify-ns")
	b.ReportMetric(verify/sha, "x_sha256")
}

// fill makes keys in the read model, and returns the secrets of some of them in random order.
func (w *world) fill(b *testing.B, n int) (secrets []string) {
	b.Helper()
	like := w.key(b, holding("orders:read"))
	pool := w.db.OwnerPool(b)
	_, err := pool.Exec(b.Context(), sqlBare)
	must(b, err)
	_, err = pool.Exec(b.Context(), "CREATE UNLOGGED TABLE bench (id text, lineage_id text, name text, digest bytea)")
	must(b, err)
	every, now := max(1, n>>16), time.Now()
	_, err = pool.CopyFrom(b.Context(), pgx.Identifier{"bench"}, []string{"id", "lineage_id", "name", "digest"},
		pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			secret, err := domain.MintSecret(nil, "rk", "live")
			if i%every == 0 {
				secrets = append(secrets, secret.Reveal())
			}
			digest := secret.Digest()
			return []any{
				domain.IDs{}.New(domain.PrefixKey, now), domain.IDs{}.New(domain.PrefixLineage, now), fmt.Sprintf("a name of 24 bytes%06d", i%1_000_000), digest[:],
			}, err
		}))
	must(b, err)
	var columns string
	must(b, pool.QueryRow(b.Context(), sqlColumns).Scan(&columns))
	_, err = pool.Exec(b.Context(), fmt.Sprintf(sqlBenchKeys, columns, own.Replace(" k."+strings.ReplaceAll(columns, ", ", ", k.")+" ")), like.Key.ID)
	must(b, err)
	rand.Shuffle(len(secrets), func(i, j int) { secrets[i], secrets[j] = secrets[j], secrets[i] })
	return secrets
}
