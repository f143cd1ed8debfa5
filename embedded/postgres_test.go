package embedded

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

// Every start, stop and crash below is of a real server. Most begin with a copy of one finished folder,
// since initdb takes ten times as long as all the rest.
func TestPostgres(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	requirePg(t)
	template := makePgTemplate(t)
	for name, test := range map[string]func(*testing.T, string){
		"AnswersOverSocketAndTCP":              testPgAnswers,
		"KeepsFilesPrivate":                    testPgPrivacy,
		"KeepsRowsPortAndPasswordOverRestart":  testPgRestart,
		"IsDurableUnlessFast":                  testPgDurability,
		"StopsAtOnceWhenContextHasEnded":       testPgStopWithoutPatience,
		"TellsThatServerExited":                testPgServerExit,
		"HoldsEndOfLogInErrorOfFailedStart":    testPgFailedStart,
		"EmptiesLongLog":                       testPgLongLog,
		"TriesAnotherPortWhenTakenInBetween":   testPgPortTaken,
		"ReplacesLostPassword":                 testPgLostPassword,
		"SurvivesKillOfParent":                 testPgKillParent,
		"SurvivesKillOfParentAndServer":        testPgKillServer,
		"SurvivesKillOfAllProcesses":           testPgKillAll,
		"WaitsForLeftoverProcess":              testPgLeftover,
		"IgnoresStaleLockNamingLivingProcess":  testPgStaleLock,
		"RefusesSecondStart":                   testPgSecondStart,
		"RefusesOtherVersionAndChangesNothing": testPgOtherVersion,
		"RefusesFilesThatAreNoCluster":         testPgNoCluster,
		"ForgetsInterruptedInitdb":             testPgInterruptedInitdb,
		"ForgetsInitdbCutShortByContext":       testPgCancelledInitdb,
		"PutsSocketElsewhereWhenPathIsTooLong": testPgLongPath,
		"WorksInOddlyNamedFolder":              testPgOddPath,
		"NamesFolderClosedToServer":            testPgClosedFolder,
		"RunsAsOwnerOfCluster":                 testPgOwner,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, template)
		})
	}
}

func testPgAnswers(t *testing.T, template string) {
	p := startPg(t, PostgresConfig{Dir: pgCopy(t, template), MaxConnections: 37})
	for _, address := range []string{p.URL("postgres"), p.TCPURL("postgres")} {
		got := pgQuery[string](t, address, `select concat_ws(' ', current_user, current_setting('timezone'),
			current_setting('server_encoding'), current_setting('max_connections'), datcollate, rolsuper)
			from pg_database, pg_roles where datname = current_database() and rolname = current_user`)
		if want := "rekey UTC UTF8 37 C t"; got != want {
			t.Errorf("asked %s: got %q, want %q", address, got, want)
		}
	}
	wrong, err := url.Parse(p.TCPURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []*url.Userinfo{url.UserPassword("rekey", "wrong"), url.User("rekey"), url.UserPassword("postgres", "")} {
		wrong.User = user
		err := pgExec(t.Context(), wrong.String(), "")
		if answer, ok := errors.AsType[*pgconn.PgError](err); !ok || answer.Code != pgInvalidPassword {
			t.Errorf("connect over tcp as %s: got %v, want code %s", user, err, pgInvalidPassword)
		}
	}
	pgMustExec(t, p.URL("postgres"), `create database "odd name/50%"`)
	for _, address := range []string{p.URL("odd name/50%"), p.TCPURL("odd name/50%")} {
		if got := pgQuery[string](t, address, "select current_database()"); got != "odd name/50%" {
			t.Errorf("asked %s: in database %q", address, got)
		}
	}
}

// The socket lets everybody in as superuser, so its folder must be closed; the rest holds secrets.
func testPgPrivacy(t *testing.T, template string) {
	dir := pgCopy(t, template)
	p := startPg(t, PostgresConfig{Dir: dir})
	for name, want := range map[string]os.FileMode{
		"run": 0o700, "data": 0o700, "password": 0o600, "postgres.log": 0o600, "lock": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s: got %o, want %o", name, got, want)
		}
	}
	if got := pgQuery[string](t, p.URL("postgres"), "show listen_addresses"); got != "127.0.0.1" {
		t.Errorf("server listens on %s", got)
	}
	if pgServerUID(t, p) == 0 {
		t.Error("server runs as root")
	}
}

func testPgRestart(t *testing.T, template string) {
	dir := pgCopy(t, template)
	p := startPg(t, PostgresConfig{Dir: dir})
	socket, tcp := p.URL("postgres"), p.TCPURL("postgres")
	pgMustExec(t, socket, "create table kept as select n from generate_series(1, 1000) n")
	if p.Err() != nil {
		t.Errorf("error of a running server: %v", p.Err())
	}
	for range 2 {
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Err(); err != nil {
			t.Errorf("error after stop: %v", err)
		}
	}
	select {
	case <-p.Done():
	default:
		t.Error("not done after stop")
	}
	p = startPg(t, PostgresConfig{Dir: dir})
	if p.URL("postgres") != socket || p.TCPURL("postgres") != tcp {
		t.Errorf("after restart: got %s and %s, want %s and %s", p.URL("postgres"), p.TCPURL("postgres"), socket, tcp)
	}
	if got := pgQuery[int](t, tcp, "select count(*) from kept"); got != 1000 {
		t.Errorf("after restart: %d rows of 1000", got)
	}
}

func testPgDurability(t *testing.T, template string) {
	for _, fast := range []bool{false, true} {
		p := startPg(t, PostgresConfig{Dir: pgCopy(t, template), Fast: fast})
		want := "on on on"
		if fast {
			want = "off off off"
		}
		got := pgQuery[string](t, p.URL("postgres"), `select concat_ws(' ', current_setting('fsync'),
			current_setting('synchronous_commit'), current_setting('full_page_writes'))`)
		if got != want {
			t.Errorf("fast %v: got %s, want %s", fast, got, want)
		}
	}
}

func testPgStopWithoutPatience(t *testing.T, template string) {
	dir := pgCopy(t, template)
	p := startPg(t, PostgresConfig{Dir: dir})
	pgMustExec(t, p.URL("postgres"), "create table kept as select n from generate_series(1, 1000) n")
	// A process that does not move keeps a fast shutdown from ending.
	pgFreezeBackend(t, p.URL("postgres"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ended); err != nil {
		t.Fatal(err)
	}
	if pids, err := pgClusterProcesses(p.data); err != nil || slices.Contains(pids, p.PID()) {
		t.Errorf("after stop: processes %v, error %v", pids, err)
	}
	p = startPg(t, PostgresConfig{Dir: dir})
	if got := pgQuery[int](t, p.URL("postgres"), "select count(*) from kept"); got != 1000 {
		t.Errorf("after an immediate shutdown: %d rows of 1000", got)
	}
}

func testPgServerExit(t *testing.T, template string) {
	dir := pgCopy(t, template)
	p := startPg(t, PostgresConfig{Dir: dir})
	pgMustExec(t, p.URL("postgres"), "create table kept as select n from generate_series(1, 1000) n")
	pgKill(t, p.PID())
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("not done after the server was killed")
	}
	if err := p.Err(); !errors.Is(err, errPgExited) || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("got error %v, want one that tells of the kill", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("stop of an exited server: %v", err)
	}
	p = startPg(t, PostgresConfig{Dir: dir})
	if got := pgQuery[int](t, p.URL("postgres"), "select count(*) from kept"); got != 1000 {
		t.Errorf("after the server was killed: %d rows of 1000", got)
	}
}

func testPgFailedStart(t *testing.T, template string) {
	dir := pgCopy(t, template)
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, MaxConnections: 1})
	if err == nil || !strings.Contains(err.Error(), "max_connections") {
		t.Errorf("got error %v, want one with the server's own words", err)
	}
	startPg(t, PostgresConfig{Dir: dir}) // the folder was let go
}

func testPgLongLog(t *testing.T, template string) {
	dir := pgCopy(t, template)
	path := filepath.Join(dir, "postgres.log")
	for _, test := range []struct {
		size int64
		kept bool
	}{{pgLogLimit / 2, true}, {pgLogLimit + 1, false}} {
		if err := os.WriteFile(path, make([]byte, test.size), 0o600); err != nil {
			t.Fatal(err)
		}
		stopPg(t, startPg(t, PostgresConfig{Dir: dir}))
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if kept := info.Size() > pgLogLimit/2; kept != test.kept {
			t.Errorf("log of %d bytes: %d after a start", test.size, info.Size())
		}
	}
}

func testPgPortTaken(t *testing.T, template string) {
	dir := pgCopy(t, template)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	var tried int
	p := startPg(t, PostgresConfig{Dir: dir, ports: func(attempt int) (int, error) {
		tried = attempt + 1
		if attempt < 3 {
			return port, nil
		}
		return (&Postgres{}).choosePort(attempt)
	}})
	if tried != 4 || p.port == port {
		t.Errorf("got port %d at attempt %d, want another than %d at 4", p.port, tried, port)
	}
	stopPg(t, p)

	// The remembered port may be somebody else's by the next start.
	if err := os.WriteFile(p.portFile(), []byte(strconv.Itoa(port)), 0o600); err != nil {
		t.Fatal(err)
	}
	p = startPg(t, PostgresConfig{Dir: dir})
	if p.port == port {
		t.Errorf("server claims the taken port %d", port)
	}
	pgMustExec(t, p.TCPURL("postgres"), "select 1")
}

func testPgLostPassword(t *testing.T, template string) {
	dir := pgCopy(t, template)
	p := startPg(t, PostgresConfig{Dir: dir})
	old := p.password
	stopPg(t, p)
	for _, change := range []func(string) error{
		os.Remove,
		func(path string) error { return os.WriteFile(path, nil, 0o600) },
		func(path string) error { return os.WriteFile(path, []byte("of-another-folder"), 0o600) },
	} {
		if err := change(filepath.Join(dir, "password")); err != nil {
			t.Fatal(err)
		}
		p = startPg(t, PostgresConfig{Dir: dir})
		if p.password == "" || p.password == old {
			t.Errorf("password was not replaced: %q", p.password)
		}
		pgMustExec(t, p.TCPURL("postgres"), "select 1")
		stopPg(t, p)
	}
}

// requirePg skips a test on a machine without binaries, where that is allowed.
func requirePg(t *testing.T) {
	t.Helper()
	if _, err := FindPostgres(""); errors.Is(err, ErrNoPostgres) {
		if tooltest.Required() {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// makePgTemplate makes a folder by a real first start.
func makePgTemplate(t *testing.T) string {
	dir := filepath.Join(pgTestDir(t), "template")
	stopPg(t, startPg(t, PostgresConfig{Dir: dir}))
	return dir
}

// pgTestDir is a folder in memory where the system has that, since a cluster is a thousand files.
func pgTestDir(t *testing.T) string {
	t.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, "rekey-embedded-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // the server's user passes through
		t.Fatal(err)
	}
	return dir
}

// pgCopy is a copy of a finished folder, of which no server runs.
func pgCopy(t *testing.T, template string) string {
	t.Helper()
	dir := filepath.Join(pgTestDir(t), "pg")
	if out, err := exec.Command("cp", "-Rp", template, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy folder: %v: %s", err, out)
	}
	// Else all copies would go for one port.
	if err := os.Remove(filepath.Join(dir, "port")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startPg(t *testing.T, cfg PostgresConfig) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopPg(t, p) })
	return p
}

func stopPg(t *testing.T, p *Postgres) {
	t.Helper()
	// Not the test's context, which has ended when cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func pgMustExec(t *testing.T, address, sql string) {
	t.Helper()
	if err := pgExec(t.Context(), address, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func pgQuery[T any](t *testing.T, address, sql string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		t.Fatalf("connect to %s: %v", address, err)
	}
	defer conn.Close(ctx)
	var value T
	if err := conn.QueryRow(ctx, sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// pgServerUID is whom the server runs as.
func pgServerUID(t *testing.T, p *Postgres) uint32 {
	t.Helper()
	out, err := exec.Command("ps", "-o", "uid=", "-p", strconv.Itoa(p.PID())).Output()
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(uid)
}

// pgEventually polls until the condition holds.
func pgEventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
