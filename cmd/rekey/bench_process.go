package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// benchProcess is a rekey in this process that is measured.
type benchProcess struct {
	*process
	addr    string
	rootKey string
	by      commands.By
	project domain.ProjectID
	ahead   *atomic.Int64 // of its clock, in nanoseconds
	stop    func()
}

// start runs a rekey on free ports in a data directory of its own and waits until it is ready.
func (b *bench) start(ctx context.Context, roles ...string) (_ *benchProcess, err error) {
	dir, err := benchDir()
	if err != nil {
		return nil, err
	}
	p := newBenchProcess(dir, roles)
	line, stop, err := launch(ctx, p.process)
	p.stop = func() { stop(); _ = os.RemoveAll(dir) }
	if err == nil {
		err = p.getToKnow(ctx, line)
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("start rekey: %w", err)
	}
	return p, nil
}

// benchDir makes a data directory. Who asked for it removes it.
func benchDir() (string, error) {
	dir, err := os.MkdirTemp(".", ".rekey-bench-")
	if err != nil {
		return "", fmt.Errorf("make a data directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may run as another user
		return "", errors.Join(fmt.Errorf("open the data directory: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// newBenchProcess is a rekey on free ports in a data directory, which may have served one before. It does not run yet.
func newBenchProcess(dir string, roles []string) *benchProcess {
	p := &benchProcess{ahead: &atomic.Int64{}}
	p.process = &process{metrics: newMetrics(), cfg: Config{
		Dev: true, Roles: roles, Addr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0", NATSAddr: "127.0.0.1:0", DataDir: dir,
		MinRotationInterval: time.Second, WebhookAllow: webhook.LoopbackPrefixes(),
		Logger: slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Now:    func() time.Time { return time.Now().Add(time.Duration(p.ahead.Load())) },
	}}
	return p
}

// launch runs a process until stop is called, and returns the line that says that it is ready.
func launch(ctx context.Context, p *process) (line string, stop func(), err error) {
	reader, writer := io.Pipe()
	p.cfg.Out = writer
	// It ends when it is stopped, and not with ctx: what works on it ends first.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = writer.CloseWithError(errors.Join(p.run(running), io.EOF))
	}()
	line, err = bufio.NewReader(reader).ReadString('\n')
	return line, func() { cancel(); <-done }, err
}

// getToKnow reads the ready line, and who may do everything.
func (p *benchProcess) getToKnow(ctx context.Context, line string) error {
	for _, field := range strings.Fields(line) {
		if address, ok := strings.CutPrefix(field, "url=http://"); ok {
			p.addr = address
		}
		if key, ok := strings.CutPrefix(field, "root_key="); ok {
			p.rootKey = key
		}
	}
	record, err := p.verifier.Authenticate(ctx, p.rootKey)
	if err != nil {
		return err
	}
	if record == nil {
		return errors.New("the root key is not one")
	}
	key := record.Key()
	p.by, p.project = commands.By{Caller: key.Caller()}, key.ProjectID
	return nil
}

// benchInterval is that of keys which rotate. The clock is moved on by more than two of them: then all are due, wherever in
// the interval their turn is, and the slots they missed are one.
const benchInterval = 30 * 24 * time.Hour

func (p *benchProcess) moveClock(by time.Duration) { p.ahead.Add(int64(by)) }

// importKeys makes keys that rotate on an interval. receiver is the address that the secrets of the n-th go to; nil: none.
func (p *benchProcess) importKeys(ctx context.Context, name string, n int, receiver func(int) string) ([]domain.KeyID, error) {
	ids := make([]domain.KeyID, 0, n)
	for len(ids) < n {
		request := commands.ImportKeys{ProjectID: p.project}
		for i := len(ids); i < min(n, len(ids)+domain.MaxImport); i++ {
			digest := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, i))
			key := commands.ImportKey{Secret: domain.ForeignSecret{SHA256: hex.EncodeToString(digest[:])}}
			key.Name, key.RotationIntervalSeconds = name, int64(benchInterval/time.Second)
			if receiver != nil {
				key.WebhookURL = receiver(i)
			}
			request.Keys = append(request.Keys, key)
		}
		made, err := p.commands.ImportKeys(ctx, p.by, request)
		if err != nil {
			return nil, fmt.Errorf("import keys: %w", err)
		}
		for _, key := range made {
			ids = append(ids, key.ID)
		}
	}
	return ids, nil
}

// working runs workers as a process with that role does, while f runs.
func (p *benchProcess) working(ctx context.Context, f func(context.Context) error) error {
	w, err := p.newWorkers()
	if err != nil {
		return err
	}
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(working) }()
	err = f(ctx)
	cancel()
	return errors.Join(err, <-stopped)
}

// sweepOnce carries out due work without workers, in one batch, and returns how much there was.
func (p *benchProcess) sweepOnce(ctx context.Context, limit int) (int, error) {
	due, err := p.reader.Due(ctx, p.cfg.Now(), limit)
	if err != nil {
		return 0, err
	}
	for i, outcome := range p.commands.Sweep(ctx, due) {
		if outcome.Err != nil {
			return 0, fmt.Errorf("rotate %s: %w", due[i].KeyID, outcome.Err)
		}
	}
	return len(due), nil
}

// count asks the database, with the rights of rekey's own role.
func (p *benchProcess) count(ctx context.Context, sql string) (n int, err error) {
	err = p.pools.background.QueryRow(ctx, sql).Scan(&n)
	return n, err
}
