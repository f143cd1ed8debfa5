package projections

import (
	"context"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// neighbour is an organization with one row of each kind, all of them named after it.
var neighbour = []string{
	`INSERT INTO organizations (id, name, created_at) VALUES ('org_' || $1, 'acme', now())`,
	`INSERT INTO projects (id, organization_id, name, brand, created_at) VALUES ('proj_' || $1, 'org_' || $1, 'app', 'rk', now())`,
	`INSERT INTO environments VALUES ('env_' || $1, 'org_' || $1, 'proj_' || $1, 'live', now())`,
	`INSERT INTO keys (id, lineage_id, generation, version, organization_id, project_id, environment_id, name, secret_digest, key_prefix,
			last_four, scopes, state, operator, created_by, created_at, expires_at, grace_seconds, endpoint_id)
		VALUES ('key_' || $1, 'lin_' || $1, 1, 1, 'org_' || $1, 'proj_' || $1, 'env_' || $1, 'ci', sha256($1::bytea), 'rk_live_abcd',
			'wxyz', '["*"]', 'active', false, 'key_maker', now(), now() + interval '1 day', 0, 'ep_' || $1)`,
	`INSERT INTO webhook_endpoints (id, organization_id, project_id, url, created_at) VALUES ('ep_' || $1, 'org_' || $1, 'proj_' || $1, 'https://example.com', now())`,
	`INSERT INTO rotations VALUES ('rot_' || $1, 'lin_' || $1, 'org_' || $1, 'proj_' || $1, 'interval', 'delivering', 'key_' || $1, 'key_next', 2, 0, NULL, now())`,
	`INSERT INTO webhook_deliveries (id, message_id, endpoint_id, organization_id, project_id, lineage_id, rotation_id, position, type, state,
			next_attempt_at, created_at)
		VALUES ('dlv_' || $1, 'msg_' || $1, 'ep_' || $1, 'org_' || $1, 'proj_' || $1, 'lin_' || $1, 'rot_' || $1, 1, 'key.rotation.created', 'failed', now(), now())`,
	`INSERT INTO grace_usage (key_id, address, agent, lineage_id, first_seen_at, last_seen_at, use_count) VALUES ('key_' || $1, '', '', 'lin_' || $1, now(), now(), 1)`,
	`INSERT INTO webhook_attempts (delivery_id, number, started_at) VALUES ('dlv_' || $1, 1, now())`,
	`INSERT INTO usage_hours VALUES ('key_' || $1, date_trunc('hour', now()), 'org_' || $1, 'proj_' || $1, 'lin_' || $1, 1, 0),
		('proj_' || $1, date_trunc('hour', now()), 'org_' || $1, 'proj_' || $1, '', 1, 0)`,
	`INSERT INTO usage_days SELECT subject_id, date_trunc('day', start, 'UTC'), organization_id, project_id, lineage_id, use_count, denied_count
		FROM usage_hours WHERE project_id = 'proj_' || $1`,
	`INSERT INTO events SELECT 1, 1 + count(*), 'evt_' || $1, 'lin_' || $1, 1, 'org_' || $1, 'proj_' || $1, 'Created', 1, now(), 'key_maker', '', '{}' FROM events`,
}

// reads are all statements that run for a tenant, with the arguments beside its reach with which they find what is a's.
var reads = map[string]struct {
	sql  string
	args []any
}{
	"sqlKeysByID":        {sqlKeysByID, []any{[]string{"key_a"}}},
	"sqlKeyByNumber":     {sqlKeyByNumber, []any{domain.KeyNumber("key_a")}},
	"sqlListKeys":        {sqlListKeys, []any{"proj_a", lastKeyID, "", "", true, time.Now(), 10}},
	"sqlListAllKeys":     {sqlListAllKeys, []any{lastKeyID, time.Now(), 10}},
	"sqlExpiringKeys":    {sqlExpiringKeys, []any{time.Now(), lastKeyID, time.Now().Add(48 * time.Hour), "", time.Now(), 10}},
	"sqlOldestKeys":      {sqlOldestKeys, []any{"", time.Now(), 10}},
	"sqlSelectKeys":      {sqlSelectKeys, []any{"lin_own", time.Now(), "", "", "", "", "", (*time.Time)(nil), 10}},
	"sqlLiveKeys":        {sqlLiveKeys, []any{[]string{"key_a"}, time.Now()}},
	"sqlHistory":         {sqlHistory, []any{"lin_a", 0, 10}},
	"sqlEvents":          {sqlEvents, []any{1, 0, 10}},
	"sqlWaitingRotation": {sqlWaitingRotation, []any{"lin_a"}},
	"sqlRotation":        {sqlRotation, []any{"rot_a"}},
	"sqlGraceClients":    {sqlGraceClients, []any{"rot_a"}},
	"sqlRotations":       {sqlRotations, []any{"", "", "", lastRotationID, 10}},
	"sqlEndpoints":       {sqlEndpoints, []any{"", "", lastEndpointID, 10}},
	"sqlEndpointGrants":  {sqlEndpointGrants, []any{"ep_a"}},
	"sqlDeliveries":      {sqlDeliveries, []any{"", "", "", "", lastDeliveryID, 10}},
	"sqlAttempts":        {sqlAttempts, []any{"dlv_a"}},
	"sqlUndelivered":     {sqlUndelivered, []any{"ep_a", "dlv_", lastDeliveryID, 10}},
	"sqlOwnOrganization": {sqlOwnOrganization, nil},
	"sqlProjects":        {sqlProjects, []any{"", "", 10}},
	"sqlEnvironments":    {sqlEnvironments, []any{"", "", "", 10}},
	"sqlHoursOf":         {sqlHoursOf, []any{time.Now().Add(-24 * time.Hour), time.Now().Add(24 * time.Hour), "key_a", "", ""}},
	"sqlHoursOfLineage":  {sqlHoursOfLineage, []any{time.Now().Add(-24 * time.Hour), time.Now().Add(24 * time.Hour), "", ""}},
	"sqlDaysOf":          {sqlDaysOf, []any{time.Now().Add(-24 * time.Hour), time.Now().Add(24 * time.Hour), "proj_a", "proj_a", ""}},
	"sqlDaysOfLineage":   {sqlDaysOfLineage, []any{time.Now().Add(-24 * time.Hour), time.Now().Add(24 * time.Hour), "lin_a", "proj_a"}},
}

// withoutTenant says why these use the service's pool: nothing else may.
var withoutTenant = map[string]string{
	"NewReader":           "keeps it",
	"Ping":                "reads nothing",
	"fetchByDigest":       "finds a secret, whoever's it is",
	"Answer":              "is asked by a digest that only the same caller can make",
	"KeepAnswer":          "is rekey's own bookkeeping",
	"DeleteAnswers":       "is rekey's own bookkeeping",
	"Organizations":       "is what an operator lists of all organizations",
	"Due":                 "is the sweep's",
	"Postpone":            "is the sweep's",
	"fetchSigning":        "is the deliveries'",
	"EndpointCertificate": "is the deliveries'",
	"ShredExpiredSecrets": "is rekey's own bookkeeping",
	"fetchPending":        "is the deliveries'",
	"EpochKey":            "is the deliveries'",
	"SealedEpochs":        "is rekey's own bookkeeping",
	"AnySigningSecret":    "is rekey's own bookkeeping",
	"EndEpochs":           "is rekey's own bookkeeping",
	"Claim":               "finds a secret that waits, by the digest of the right to fetch it",
	"ForgetClaims":        "is rekey's own bookkeeping",
	"usageGaps":           "says when replicas crashed, which is no tenant's",
	"NewGraceUses":        "keeps it",
	"Unused":              "is the upkeep's",
	"Flush":               "counts who uses keys in grace, and reads nothing",
}

// firstWall is the condition that keeps tenants apart in each statement.
var firstWall = regexp.MustCompile(`(\b\w+\.)?\b(organization_id|id) = \$1\b`)

// G6: behind the first wall there is a second. Each statement for a tenant loses its own condition here, and still another
// tenant sees nothing in a database that is full of its neighbour's rows.
func TestG6SecondWall(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	owner, pool := db.OwnerPool(t), db.Pool(t)
	for _, sql := range neighbour {
		if _, err := owner.Exec(t.Context(), sql, "a"); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	r := NewReader(pool, dbtest.Tenants(t, pool))
	a, b, nobody := Reach{Organization: "org_a"}, Reach{Organization: "org_b"}, Reach{}
	for name, read := range reads {
		cut := firstWall.ReplaceAllString(read.sql, "$$1::text IS NOT NULL")
		if cut == read.sql || firstWall.MatchString(cut) {
			t.Errorf("%s does not ask for its tenant", name)
		}
		find := func(reach Reach, sql string) int {
			t.Helper()
			rows, err := collectWithin(t.Context(), r, reach, pgx.RowToMap, sql, read.args...)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return len(rows)
		}
		if n := find(a, read.sql); n != 1 {
			t.Errorf("%s found %d rows of its own tenant", name, n)
		}
		if n := find(b, read.sql); n != 0 {
			t.Errorf("%s found %d rows of another tenant", name, n)
		}
		for _, reach := range []Reach{b, nobody} {
			if n := find(reach, cut); n != 0 {
				t.Errorf("without its first wall %s showed %q %d rows of another tenant", name, reach.Organization, n)
			}
		}
		// The first wall really is down: with the service's rights the same statement shows what it should not.
		rows, err := collect(t.Context(), pool, pgx.RowToMap, cut, append([]any{b.Organization, b.Projects}, read.args...)...)
		if err != nil || len(rows) == 0 {
			t.Errorf("%s has another first wall than the one that was taken down: %d rows, %v", name, len(rows), err)
		}
		// A key that is limited to other projects, or to none, finds no more than a stranger.
		if name == "sqlOwnOrganization" {
			continue
		}
		for _, projects := range [][]string{{}, {"proj_other"}} {
			if n := find(Reach{a.Organization, projects}, read.sql); n != 0 {
				t.Errorf("%s showed a key limited to the projects %q %d rows of another", name, projects, n)
			}
		}
		if n := find(Reach{a.Organization, []string{"proj_other", "proj_a"}}, read.sql); n != 1 {
			t.Errorf("%s found %d rows of a project that the key is limited to", name, n)
		}
	}
}

// G6: the statements above are all there are, nothing goes to the tenants' pool around the walls, and who uses the
// service's has a reason. All of it is read from the source.
func TestG6ReadsGoThroughTheWalls(t *testing.T) {
	t.Parallel()
	asked, tenants, service := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, file := range sources(t) {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					callee, ok := n.Fun.(*ast.Ident)
					if !ok || callee.Name != "queue" && callee.Name != "collectWithin" || f.Name.Name == "collectWithin" {
						return true
					}
					sql, ok := n.Args[4].(*ast.Ident)
					if !ok {
						t.Errorf("%s makes up its statement: give it a name", f.Name)
						return true
					}
					asked[sql.Name] = true
				case *ast.SelectorExpr:
					switch n.Sel.Name {
					case "tenants":
						tenants[f.Name.Name] = true
					case "pool":
						service[f.Name.Name] = true
					}
				case *ast.KeyValueExpr: // NewReader's
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "pool" {
						service[f.Name.Name] = true
					}
				}
				return true
			})
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(reads)), slices.Sorted(maps.Keys(asked))); diff != "" {
		t.Errorf("statements for tenants that are tested, and those that there are: %s", diff)
	}
	if diff := cmp.Diff([]string{"send"}, slices.Sorted(maps.Keys(tenants))); diff != "" {
		t.Errorf("who uses the tenants' pool: %s", diff)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(withoutTenant)), slices.Sorted(maps.Keys(service))); diff != "" {
		t.Errorf("who uses the service's pool: %s", diff)
	}
}

// G6: a connection forgets whom it read for. One single connection serves all tenants in turn, with reads that fail, are
// given up or are joined between them, by statements without a first wall.
//
// Not parallel, because how much rapid tries is set for the whole process.
func TestG6ConnectionsForgetTheirTenant(t *testing.T) {
	tries := "10"
	if os.Getenv("REKEY_SOAK") == "1" {
		tries = "300"
	}
	for name, value := range map[string]string{"rapid.checks": tries, "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	const (
		open   = `SELECT organization_id FROM keys WHERE $1::text IS NOT NULL AND $2::text[] IS NULL`
		broken = `SELECT organization_id FROM keys WHERE $1::text IS NOT NULL AND $2::text[] IS NULL AND 1 / (length(id) - length(id)) = 1`
		slow   = `SELECT organization_id FROM keys, pg_sleep(0.05) WHERE $1::text IS NOT NULL AND $2::text[] IS NULL`
		bare   = `SELECT coalesce(current_setting('rekey.organization', true), '') || string_agg(id, ',') FROM keys`
	)
	db := dbtest.New(t)
	names := []string{"a", "b", "c"}
	for _, name := range names {
		for _, sql := range neighbour {
			if _, err := db.OwnerPool(t).Exec(t.Context(), sql, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	pool := dbtest.Tenants(t, db.Pool(t))
	config := pool.Config()
	config.MaxConns = 1
	one, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.Close)
	r := NewReader(nil, one)
	scan := pgx.RowTo[domain.OrganizationID]

	rapid.Check(t, func(rt *rapid.T) {
		one.Reset() // what another sequence left behind is not this one's
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		draw := func() Reach {
			return Reach{Organization: domain.OrganizationID("org_" + rapid.SampledFrom(names).Draw(rt, "tenant"))}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"Read": func(rt *rapid.T) {
				reach := draw()
				got, err := collectWithin(ctx, r, reach, scan, open)
				if err != nil || !slices.Equal(got, []domain.OrganizationID{reach.Organization}) {
					rt.Fatalf("%s saw %v, %v", reach.Organization, got, err)
				}
			},
			"Joined": func(rt *rapid.T) {
				var v visit
				var want, got []domain.OrganizationID
				for range rapid.IntRange(0, 4).Draw(rt, "reads") {
					reach := draw()
					want = append(want, reach.Organization)
					queue(&v, reach, scan, func(id domain.OrganizationID) { got = append(got, id) }, open)
				}
				if err := r.send(ctx, &v); err != nil || !slices.Equal(got, want) {
					rt.Fatalf("%v saw %v, %v", want, got, err)
				}
			},
			"Broken": func(rt *rapid.T) {
				if got, err := collectWithin(ctx, r, draw(), scan, broken); err == nil || got != nil {
					rt.Fatalf("a statement that fails gave %v, %v", got, err)
				}
			},
			"Misspelt": func(rt *rapid.T) {
				if got, err := collectWithin(ctx, r, draw(), scan, open+" AND"); err == nil || got != nil {
					rt.Fatalf("a statement that is none gave %v, %v", got, err)
				}
			},
			"Impossible": func(rt *rapid.T) {
				if got, err := collectWithin(ctx, r, Reach{Organization: "org_\x00"}, scan, open); err != nil || got != nil {
					rt.Fatalf("an organization that cannot be saw %v, %v", got, err)
				}
			},
			"GivenUp": func(rt *rapid.T) {
				short, cancel := context.WithTimeout(ctx, time.Duration(rapid.IntRange(0, 3000).Draw(rt, "µs"))*time.Microsecond)
				defer cancel()
				reach := draw()
				if got, err := collectWithin(short, r, reach, scan, slow); err == nil && !slices.Equal(got, []domain.OrganizationID{reach.Organization}) {
					rt.Fatalf("a read that was almost given up saw %v as %s", got, reach.Organization)
				}
			},
			"Panic": func(rt *rapid.T) {
				defer func() { _ = recover() }()
				_, _ = collectWithin(ctx, r, draw(), func(pgx.CollectableRow) (domain.OrganizationID, error) { panic("a bug") }, open)
			},
			// After each of them: the connection is nobody's.
			"": func(rt *rapid.T) {
				var seen *string
				if err := one.QueryRow(ctx, bare).Scan(&seen); err != nil || seen != nil {
					rt.Fatalf("without a tenant it saw %v, %v", seen, err)
				}
				var tenant string
				if err := one.QueryRow(ctx, `SELECT coalesce(current_setting('rekey.organization', true), '')`).Scan(&tenant); err != nil || tenant != "" {
					rt.Fatalf("the connection still is for %q, %v", tenant, err)
				}
			},
		})
	})
}

// sources are the package's files, tests aside.
func sources(t *testing.T) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}
