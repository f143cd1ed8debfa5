package verifier

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// bytesPerKey is what a key may cost in memory, its name of 24 bytes included.
const bytesPerKey = 250

// TestMemoryPerKey loads a million keys, with rights that others have too and without metadata, and weighs them.
func TestMemoryPerKey(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	const n = 1_000_000
	before := heap()
	m := newMemory(applied{})
	for i := range n {
		m.put(synthetic(i))
	}
	got := float64(heap()-before) / n
	t.Logf("%.1f bytes a key", got)
	if got > bytesPerKey {
		t.Errorf("a key takes %.1f bytes, more than %d", got, bytesPerKey)
	}
	if m.table.live != n || m.families.live != n {
		t.Errorf("%d and %d keys are in memory", m.table.live, m.families.live)
	}
	runtime.KeepAlive(m)
}

// synthetic is a key as the read model gives it: nothing in it is shared with another one.
func synthetic(i int) *projections.Key {
	var digest domain.Digest
	_, _ = rand.Read(digest[:]) // never fails
	tenant := i % 1000
	return &projections.Key{
		ID: newID[domain.KeyID](domain.PrefixKey), LineageID: newID[domain.LineageID](domain.PrefixLineage), Generation: 1,
		OrganizationID: domain.OrganizationID(fmt.Sprint("org_", tenant)), ProjectID: domain.ProjectID(fmt.Sprint("proj_", tenant)),
		EnvironmentID: domain.EnvironmentID(fmt.Sprint("env_", tenant)), Name: fmt.Sprintf("a name of 24 bytes%06d", i%1_000_000),
		Scopes: domain.Scopes{"orders:read", fmt.Sprint("orders:", binary.LittleEndian.Uint16(digest[:])%8)},
		Secret: domain.SecretFacts{Digest: digest}, State: domain.GenerationActive,
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one has found to be unused, the second one has swept
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
