package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pgSuperuser = "rekey"
	// Crash recovery of a large cluster takes minutes, and giving up in the middle would only make
	// the next start begin again. A caller with less patience brings a context.
	pgStartTimeout = 5 * time.Minute
)

// ErrPostgresInUse says that a living process already runs a server on the folder.
var ErrPostgresInUse = errors.New("postgres folder is in use")

// PostgresConfig says where and how StartPostgres runs a server.
type PostgresConfig struct {
	// Dir is the root folder, which holds the cluster, the socket folder and the password; made if
	// missing. A relative path is made absolute. Required.
	Dir string
	// Bin is the folder of postgres and initdb. Empty: found as by FindPostgres, where binaries of
	// the version that made the cluster come before others.
	Bin string
	// Fast turns off everything that makes a commit durable against a crash of the machine. For
	// tests only: data may be lost, the cluster may be broken afterwards.
	Fast bool
	// MaxConnections of the server; 0 means 100.
	MaxConnections int
	// Logger gets the few lines an operator should see; nil means none. The server's own log is a
	// file in Dir.
	Logger *slog.Logger

	// ports gives the port to try at an attempt, counted from 0. Tests replace it.
	ports func(attempt int) (int, error)
}

// Postgres is a running private server. Its methods may be called from several goroutines.
type Postgres struct {
	dir      string // absolute
	data     string // the cluster
	sockets  string // folder of the unix socket
	bin      string
	args     []string // settings of the server, without the port
	account  pgAccount
	log      *slog.Logger
	lock     *os.File
	password string
	// passwordNew: the cluster or the password was made at this start, so they do not fit yet.
	passwordNew bool
	port        int
	child       *pgChild
	stopping    atomic.Bool
	done        chan struct{}
	err         error // set before done is closed
	closeOnce   sync.Once
}

// StartPostgres starts a private server and returns when it answers over the socket and over TCP.
// The context bounds the start only; the server runs until Stop or the end of this process.
//
// Errors worth telling apart: ErrNoPostgres, ErrPostgresInUse, ErrPostgresVersion. When the server
// does not come up, the error holds the end of its log.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	ctx, cancel := context.WithTimeout(ctx, pgStartTimeout)
	defer cancel()
	p, err := startPostgres(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	return p, nil
}

func startPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if cfg.Dir == "" {
		return nil, errors.New("no folder given")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("make path absolute: %w", err)
	}
	p := &Postgres{
		dir:  dir,
		data: filepath.Join(dir, "data"),
		log:  cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		done: make(chan struct{}),
	}
	major, err := p.enter(ctx, cfg.Bin)
	if err != nil {
		return nil, err
	}
	if err := p.prepare(ctx, major, cfg); err != nil {
		p.leave()
		return nil, err
	}
	if err := p.run(ctx, cfg.ports); err != nil {
		p.leave()
		return nil, err
	}
	return p, nil
}

// enter finds the binaries and the account, makes the folder and locks it. Nothing is made before it
// is known that the server could work there.
func (p *Postgres) enter(ctx context.Context, bin string) (major int, err error) {
	// A cluster that cannot be read is reported by prepare, under the lock.
	made, _ := pgClusterVersion(p.data)
	found, err := findPostgres(bin, made, pgPlaces("/"))
	if err != nil {
		return 0, err
	}
	p.bin = found.dir
	if p.account, err = pgChooseAccount(p.data); err != nil {
		return 0, err
	}
	if err := p.account.checkReach(ctx, p.bin, p.dir); err != nil {
		return 0, err
	}
	if err := MakeDir(p.dir); err != nil {
		return 0, err
	}
	// One name for one folder, whichever way it was reached: the mark of the cluster depends on it.
	if p.dir, err = filepath.EvalSymlinks(p.dir); err != nil {
		return 0, fmt.Errorf("resolve folder: %w", err)
	}
	p.data = filepath.Join(p.dir, "data")
	p.lock, err = pgLockDir(ctx, p.dir)
	return found.major, err
}

// prepare brings the folder into a state in which postgres will start: nobody else works in the
// cluster, which exists and fits the binaries.
func (p *Postgres) prepare(ctx context.Context, major int, cfg PostgresConfig) error {
	if err := pgCheckVersion(p.data, p.bin, major); err != nil {
		return err
	}
	if err := pgClearLeftovers(ctx, p.data, p.log); err != nil {
		return err
	}
	if err := p.ensureCluster(ctx, cfg.Fast); err != nil {
		return err
	}
	if err := p.ensurePasswordFile(); err != nil {
		return err
	}
	var err error
	if p.sockets, err = pgMakeSocketDir(ctx, p.dir, p.bin, p.account); err != nil {
		return err
	}
	hba, err := pgWriteHBA(p.dir)
	if err != nil {
		return err
	}
	p.args = pgSettings(p.data, p.sockets, hba, cfg)
	return nil
}

// leave lets go of the folder.
func (p *Postgres) leave() {
	p.closeOnce.Do(func() {
		if p.sockets != "" {
			pgRemoveSocketDir(p.dir)
		}
		if p.lock != nil {
			p.lock.Close()
		}
	})
}

// URL is the address of a database over the unix socket, as superuser "rekey", for pgx and libpq.
// It holds no password: whoever may enter the socket's folder is let in.
func (p *Postgres) URL(database string) string {
	query := url.Values{
		"host":    {p.sockets},
		"port":    {strconv.Itoa(p.port)},
		"sslmode": {"disable"},
	}
	// url.URL prints no "@" without a host, though pgx and libpq want it. libpq takes a "+" as it stands.
	return "postgres://" + pgSuperuser + "@/" + url.PathEscape(database) +
		"?" + strings.ReplaceAll(query.Encode(), "+", "%20")
}

// TCPURL is the address of a database over 127.0.0.1, with the superuser's password: for replicas and
// tools, which may run as another user.
func (p *Postgres) TCPURL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(pgSuperuser, p.password),
		Host:     "127.0.0.1:" + strconv.Itoa(p.port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// PID is the process id of the server's first process.
func (p *Postgres) PID() int { return p.child.cmd.Process.Pid }

// Done is closed when the server has exited, whether asked to or not.
func (p *Postgres) Done() <-chan struct{} { return p.done }

// Err is nil while the server runs and after Stop; otherwise it says why the server exited.
func (p *Postgres) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop ends the server and lets go of the folder. Open transactions are rolled back. It asks for a fast
// shutdown; after 20 seconds, or when the context ends, for an immediate one, from which the
// next start recovers. It returns nil when the server is gone, also when it was gone before, and may be
// repeated; after an error the server still runs and the folder stays locked.
func (p *Postgres) Stop(ctx context.Context) error {
	p.stopping.Store(true)
	if err := p.child.stop(ctx, p.log); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	<-p.done
	p.leave()
	return nil
}
