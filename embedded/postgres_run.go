package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	pgConnectTimeout = 5 * time.Second
	pgReadyPoll      = 5 * time.Millisecond
	pgStartAttempts  = 5
	pgStartPause     = 25 * time.Millisecond
	pgLogLimit       = 10 << 20
	pgLogTail        = 2 << 10

	// SQLSTATE of a server that is starting up or recovering.
	pgCannotConnectNow = "57P03"
	// SQLSTATE of a password that is wrong, or of a role that has none.
	pgInvalidPassword = "28P01"
)

var errPgExited = errors.New("postgres exited")

// pgSettings are the server's arguments. They stand on the command line, where nothing in the cluster
// can override them; whatever is not named here may be set in its postgresql.conf.
func pgSettings(data, sockets, hba string, cfg PostgresConfig) []string {
	connections := cfg.MaxConnections
	if connections == 0 {
		connections = 100
	}
	settings := []string{
		"unix_socket_directories=" + sockets,
		"listen_addresses=127.0.0.1",
		"hba_file=" + hba,
		"max_connections=" + strconv.Itoa(connections),
		"timezone=UTC",
		"log_timezone=UTC",
		"log_destination=stderr",
		"logging_collector=off",
		"log_min_messages=warning",
		// Shown in the process title of every backend, which is how leftovers are recognised.
		"cluster_name=" + pgClusterName(data),
	}
	if cfg.Fast {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	args := []string{"-D", data}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

// run starts the server. An exit right at the start is tried again a few times, on another port: between
// finding a port and the server's bind somebody may have taken it, and a killed server's memory may still be
// in use for a moment. Which of these it was stands in the log only, in words.
func (p *Postgres) run(ctx context.Context, ports func(int) (int, error)) error {
	if ports == nil {
		ports = p.choosePort
	}
	for attempt := 0; ; attempt++ {
		port, err := ports(attempt)
		if err != nil {
			return fmt.Errorf("choose port: %w", err)
		}
		p.port = port
		err = p.launch(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, errPgExited) || attempt == pgStartAttempts-1 || ctx.Err() != nil {
			return err
		}
		p.log.Info("postgres exited at start, trying again", "attempt", attempt+1, "port", port)
		time.Sleep(pgStartPause << attempt)
	}
	if err := os.WriteFile(p.portFile(), []byte(strconv.Itoa(p.port)+"\n"), 0o600); err != nil {
		p.log.Warn("postgres port not remembered", "error", err)
	}
	p.log.Info("postgres started", "pid", p.PID(), "port", p.port, "folder", p.dir)
	go p.watch()
	return nil
}

// launch starts the server on p.port and waits until it answers; on an error none runs.
func (p *Postgres) launch(ctx context.Context) error {
	logFile, from, err := pgOpenLog(p.logFile())
	if err != nil {
		return fmt.Errorf("open server log: %w", err)
	}
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), append(p.args, "-c", "port="+strconv.Itoa(p.port))...)
	cmd.Dir = p.data // the default, our own working directory, may be closed to the account
	cmd.Env = pgEnv()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = pgProcAttr(p.account.credential())
	p.child, err = pgStartChild(cmd)
	logFile.Close()
	if err != nil {
		return fmt.Errorf("run postgres: %w", err)
	}
	if err = p.awaitReady(ctx); err == nil {
		err = p.ensurePassword(ctx)
	}
	if err != nil {
		err = errors.Join(err, p.child.stop(ctx, p.log))
		return fmt.Errorf("%w; end of %s:\n%s", err, p.logFile(), pgTail(p.logFile(), from))
	}
	return nil
}

// awaitReady polls with real connections, since a socket that accepts says nothing about recovery.
func (p *Postgres) awaitReady(ctx context.Context) error {
	for {
		err := pgExec(ctx, p.URL("postgres"), "")
		if err == nil {
			return nil
		}
		if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Code != pgCannotConnectNow {
			return fmt.Errorf("connect: %w", err)
		}
		select {
		case <-p.child.exited:
			return fmt.Errorf("%w: %s", errPgExited, p.child.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("wait until postgres is ready: %w", ctx.Err())
		case <-time.After(pgReadyPoll):
		}
	}
}

// ensurePassword makes the kept password the one that works over TCP: the cluster is new, or the
// password's file was lost, or the cluster was put here from elsewhere. At a usual start it only
// proves that TCP works.
func (p *Postgres) ensurePassword(ctx context.Context) error {
	if !p.passwordNew {
		err := pgExec(ctx, p.TCPURL("postgres"), "")
		if err == nil {
			return nil
		}
		if answer, ok := errors.AsType[*pgconn.PgError](err); !ok || answer.Code != pgInvalidPassword {
			return fmt.Errorf("connect over tcp: %w", err)
		}
	}
	verifier, err := pgScramVerifier(p.password)
	if err != nil {
		return fmt.Errorf("derive password verifier: %w", err)
	}
	if err := pgExec(ctx, p.URL("postgres"), "ALTER ROLE "+pgSuperuser+" PASSWORD '"+verifier+"'"); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return nil
}

// watch says why the server ended, if nobody asked it to.
func (p *Postgres) watch() {
	<-p.child.exited
	if !p.stopping.Load() {
		p.err = fmt.Errorf("%w: %s; end of %s:\n%s", errPgExited, p.child.cmd.ProcessState, p.logFile(), pgTail(p.logFile(), 0))
		p.log.Error("postgres exited", "error", p.err)
	}
	close(p.done)
}

// pgExec connects, runs one statement (none if empty) and disconnects.
func pgExec(ctx context.Context, address, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, pgConnectTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if sql == "" {
		return nil
	}
	_, err = conn.Exec(ctx, sql)
	return err
}

// choosePort prefers the last port, so that replicas started with its address find the server again
// after a restart.
func (p *Postgres) choosePort(attempt int) (int, error) {
	if attempt == 0 { // should it be taken by now, there is another attempt
		text, _ := os.ReadFile(p.portFile()) // missing at the first start; then it parses as no port
		port, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
		if err == nil && port > 0 {
			return int(port), nil
		}
	}
	// Below the ports that systems give to outgoing connections, one of which could take the port
	// while the server is down.
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if pgPortFree(port) {
			return port, nil
		}
	}
	return 0, errors.New("no free port found on 127.0.0.1 between 20000 and 32000")
}

func pgPortFree(port int) bool {
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	listener.Close()
	return true
}

func (p *Postgres) portFile() string { return filepath.Join(p.dir, "port") }
func (p *Postgres) logFile() string  { return filepath.Join(p.dir, "postgres.log") }

// pgOpenLog opens the log for appending, emptied when too long, and tells where the next line goes.
func pgOpenLog(path string) (file *os.File, from int64, err error) {
	file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && info.Size() > pgLogLimit {
		err = file.Truncate(0)
	} else if err == nil {
		from = info.Size()
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, from, nil
}

// pgTail is the end of the log, of what stands after from. It goes into an error that is already being
// reported, so trouble with the log itself is told in its place.
func pgTail(path string, from int64) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil {
		from = max(from, info.Size()-pgLogTail)
	}
	text, err := io.ReadAll(io.NewSectionReader(file, from, pgLogTail))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
