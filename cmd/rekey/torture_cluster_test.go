package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/embedded"
	"github.com/rekeyhq/rekey/internal/tooltest"
	"github.com/rekeyhq/rekey/migrations"
)

// cluster is one Postgres, one NATS and three replicas, each a process of its own behind lines of its own.
type cluster struct {
	t        testing.TB
	dir      string
	replicas []*replica

	mu       sync.Mutex // held while Postgres is exchanged
	postgres *embedded.Postgres
}

// replica is one of them. Whoever makes faults in it is alone in doing so.
type replica struct {
	rest
	addr, metrics  string
	postgres, nats *line
	launch         func() *child

	mu      sync.Mutex
	process *child
}

// hastyReplica in the environment of this test binary makes it a replica whose commands do not wait at the barrier. The
// program itself reads nothing of the kind.
const hastyReplica = "REKEY_TEST_HASTY_REPLICA"

// hasty lets commands be answered at once: others hear of them all the same, and nobody waits for them.
type hasty struct{ commands.Barrier }

func (b hasty) Wait(ctx context.Context, position int64) error {
	go func() { _ = b.Barrier.Wait(context.WithoutCancel(ctx), position) }()
	return nil
}

// serveHastily is `rekey serve` without waiting; it returns the exit code.
func serveHastily(roles string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := configFromEnv(false, strings.Split(roles, ","))
	if err == nil {
		cfg.wrapBarrier = func(b commands.Barrier) commands.Barrier { return hasty{b} }
		err = run(ctx, cfg)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "rekey:", err)
		return 1
	}
	return 0
}

// newCluster starts everything. The replicas are the program as users run it, or this test binary.
func newCluster(t testing.TB, inHaste bool) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: inMemory(t)}
	c.startPostgres(t)
	t.Cleanup(func() { c.stopPostgres(t, false) }) // after the replicas
	database := c.postgres.TCPURL("postgres")
	if err := migrations.Up(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	const token = "the-service-token-of-this-test"
	server := startNATS(t, "127.0.0.1:0", filepath.Join(c.dir, "jetstream"), token)
	natsURL := "nats://" + token + "@" + strings.TrimPrefix(server.URL(), "nats://")
	root := rand.Text() + rand.Text()
	for i := range 3 {
		r := &replica{
			addr: freeAddr(t), metrics: freeAddr(t),
			postgres: newLine(t, hostOf(t, database)), nats: newLine(t, hostOf(t, natsURL)),
		}
		r.rest = newREST(t, "http://"+r.addr, root)
		env := []string{
			"REKEY_ADDR=" + r.addr, "REKEY_METRICS_ADDR=" + r.metrics, "REKEY_ROOT_KEY=" + root,
			"REKEY_DATABASE_URL=" + r.postgres.through(t, database), "REKEY_NATS_URL=" + r.nats.through(t, natsURL),
			"REKEY_MASTER_KEY=" + encodeMasterKey(make([]byte, 32)), "REKEY_LOG_LEVEL=warn",
		}
		roles := roleAPI
		if i == 0 { // one works in the background: the load is what the others are for
			roles = strings.Join([]string{roleAPI, roleWorker, roleRelay}, ",")
		}
		r.launch = func() *child { return startRekey(t, env, "serve", "--roles", roles) }
		if inHaste {
			r.launch = func() *child {
				cmd := exec.Command(os.Args[0], roles)
				cmd.Env = append(os.Environ(), append(env, hastyReplica+"=1")...)
				return startChild(t, cmd)
			}
		}
		r.process = r.launch()
		r.process.awaitReady(t)
		c.replicas = append(c.replicas, r)
	}
	for _, r := range c.replicas {
		eventually(t, "it answers from memory", r.trusted)
	}
	return c
}

func hostOf(t testing.TB, address string) string {
	t.Helper()
	_, rest, _ := strings.Cut(address, "@")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// startPostgres starts Postgres, at the port of before.
func (c *cluster) startPostgres(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	postgres, err := embedded.StartPostgres(context.Background(), embedded.PostgresConfig{Dir: filepath.Join(c.dir, "postgres"), MaxConnections: 250})
	if errors.Is(err, embedded.ErrNoPostgres) {
		tooltest.Missing(t, err.Error())
	}
	if err != nil {
		t.Errorf("start Postgres: %v", err)
		return
	}
	c.postgres = postgres
}

// stopPostgres stops it in good order or by kill -9.
func (c *cluster) stopPostgres(t testing.TB, crash bool) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if crash {
		_ = syscall.Kill(c.postgres.PID(), syscall.SIGKILL)
		<-c.postgres.Done()
	}
	stopPostgres(t, c.postgres)
}

// reboot kills a replica with -9 and starts it until it is ready: without Postgres it refuses to start.
func (r *replica) reboot(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process.kill()
	for ctx.Err() == nil {
		r.process = r.launch()
		for !r.process.hasExited() {
			if strings.HasSuffix(r.process.out.String(), "\n") {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// freeze stops a replica where it stands; thaw lets it go on.
func (r *replica) freeze() { r.signal(syscall.SIGSTOP) }
func (r *replica) thaw()   { r.signal(syscall.SIGCONT) }

func (r *replica) signal(s syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.process.cmd.Process.Signal(s)
}

// trusted asks whether a replica answers from memory now.
func (r *replica) trusted() bool { return r.measure("rekey_verifier_trusted") == 1 }

// measure reads a metric, the sum over its labels; -1 if it cannot be read.
func (r *replica) measure(name string) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.metrics+"/metrics", nil)
	if err != nil {
		return -1
	}
	response, err := r.http.Do(request)
	if err != nil {
		return -1
	}
	defer func() { _ = response.Body.Close() }()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		metric, value, _ := strings.Cut(lines.Text(), " ")
		if metric != name && !strings.HasPrefix(metric, name+"{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return -1
		}
		sum, found = sum+n, true
	}
	if !found {
		return -1
	}
	return sum
}
