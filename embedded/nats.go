package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// Recovery reads the end of every stream; minutes are far beyond it, and giving up earlier would only begin it again.
	natsStartTimeout = 2 * time.Minute
	// A process that was just killed may need a moment to let go of the store.
	natsLockWait = 3 * time.Second
	natsPoll     = 10 * time.Millisecond
)

// ErrNATSInUse says that a living process already runs a server on the store.
var ErrNATSInUse = errors.New("jetstream store is in use")

// NATSConfig says where and how StartNATS runs a server.
type NATSConfig struct {
	// Addr is the host:port to listen on; port 0 takes a free one. Required.
	Addr string
	// StoreDir holds the JetStream streams; made if missing. Required.
	StoreDir string
	// ServiceToken is the token of rekey's own processes (relay, replicas), which may do everything. Required.
	ServiceToken string
	// Authorize judges the token of anybody else. Until it is set, here or by SetAuthorize, everybody else is refused.
	Authorize Authorize
	// Logger gets what the server has to say: notices at debug, warnings and errors at warn. nil means none.
	Logger *slog.Logger
}

// NATS is a NATS server with JetStream inside this process, which also listens on TCP. An acknowledgment of JetStream
// means that the message is on the disk: every write is fsynced (an atomic batch once), because by default an
// acknowledged message lies in memory for up to two minutes.
//
// It fails like this: a start is refused when the port is taken, when the store cannot be used, or with ErrNATSInUse when
// another living process uses the store. A store that a kill left behind is recovered at the start; nobody's help is
// needed.
type NATS struct {
	server    *server.Server
	auth      *natsAuth
	token     string
	lock      *os.File
	closeOnce sync.Once
}

// StartNATS starts the server and returns when it answers.
func StartNATS(cfg NATSConfig) (*NATS, error) {
	n, err := startNATS(cfg)
	if err != nil {
		return nil, fmt.Errorf("start nats: %w", err)
	}
	return n, nil
}

func startNATS(cfg NATSConfig) (*NATS, error) {
	if cfg.StoreDir == "" || cfg.ServiceToken == "" {
		return nil, errors.New("a store folder and a service token are needed")
	}
	host, port, err := splitAddr(cfg.Addr)
	if err != nil {
		return nil, err
	}
	log := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	n := &NATS{token: cfg.ServiceToken, auth: newNATSAuth(cfg.ServiceToken, log)}
	n.SetAuthorize(cfg.Authorize)
	n.server, err = server.NewServer(&server.Options{
		ServerName: "rekey",
		Host:       host,
		Port:       port,
		JetStream:  true,
		StoreDir:   cfg.StoreDir,
		SyncAlways: true,
		NoSigs:     true, // signals belong to the program, not to a part of it
		// The judgement may read Postgres; the server drops a connection that is not judged by then.
		AuthTimeout:                (authorizeTimeout + time.Second).Seconds(),
		CustomClientAuthentication: n.auth,
		DisableJetStreamBanner:     true,
	})
	if err != nil {
		return nil, err
	}
	if n.lock, err = natsLock(cfg.StoreDir); err != nil {
		return nil, err
	}
	if err := n.run(log); err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

// splitAddr reads a host:port as the server's options want it, where 0 stands for the default port and -1 for a free one.
func splitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("parse address: %w", err)
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("parse port of %q: %w", addr, err)
	}
	if number == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(number), nil
}

// run starts the server and waits until it takes connections. What it cannot start with, it only tells its log.
func (n *NATS) run(log *slog.Logger) error {
	logger := &natsLogger{log: log, fatal: make(chan string, 1)}
	n.server.SetLoggerV2(logger, false, false, false)
	n.server.Start()
	for deadline := time.Now().Add(natsStartTimeout); ; {
		select {
		case reason := <-logger.fatal:
			return errors.New(reason)
		default:
		}
		if n.server.ReadyForConnections(natsPoll) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %s", natsStartTimeout)
		}
	}
}

// natsLock makes this process the store's only user; the kernel drops the lock when the process ends in whatever way. The
// server itself has no such guard, and two of them on one store would ruin it.
func natsLock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for deadline := time.Now().Add(natsLockWait); ; time.Sleep(natsPoll) {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
	}
	if err == nil {
		return lock, nil
	}
	_ = lock.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: another process works in %s", ErrNATSInUse, dir)
	}
	return nil, fmt.Errorf("lock store folder: %w", err)
}

// URL is the address for clients on this machine, without a token.
func (n *NATS) URL() string {
	addr, ok := n.server.Addr().(*net.TCPAddr)
	if !ok {
		return "" // not listening any more
	}
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "nats://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))
}

// ServiceInbox is the prefix of the inboxes of rekey's own processes (nats.CustomInboxPrefix), wherever they connect from.
// Subscribers may listen to _INBOX.>, where the clients' default is; what the service reads is not for their eyes.
const ServiceInbox = "_REKEY"

// Connect connects inside the process, with the service token. The connection never gives up and keeps nothing to be sent
// later, so that a failed publish is seen at once. Options given here come last.
func (n *NATS) Connect(opts ...nats.Option) (*nats.Conn, error) {
	defaults := []nats.Option{
		nats.InProcessServer(n.server),
		nats.Token(n.token),
		nats.Name("rekey"),
		nats.CustomInboxPrefix(ServiceInbox),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1),
	}
	nc, err := nats.Connect("", append(defaults, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded nats: %w", err)
	}
	return nc, nil
}

// SetAuthorize replaces the judge of tokens; nil refuses everybody but the service. Connections that exist stay.
func (n *NATS) SetAuthorize(authorize Authorize) { n.auth.authorize.Store(&authorize) }

// Stop ends the server, waits until it has, and lets go of the store. It may be called again.
func (n *NATS) Stop() {
	n.closeOnce.Do(func() {
		n.server.Shutdown()
		n.server.WaitForShutdown()
		_ = n.lock.Close()
	})
}

// natsLogger hands the server's lines to slog. Their text goes into an attribute, so that messages stay constant.
type natsLogger struct {
	log   *slog.Logger
	fatal chan string
}

var _ server.Logger = (*natsLogger)(nil)

func (l *natsLogger) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }
func (l *natsLogger) Warnf(format string, v ...any)   { l.write(slog.LevelWarn, format, v) }
func (l *natsLogger) Errorf(format string, v ...any)  { l.write(slog.LevelWarn, format, v) }

// Debugf and Tracef are switched off where the logger is set: they tell of every protocol line.
func (l *natsLogger) Debugf(string, ...any) {}
func (l *natsLogger) Tracef(string, ...any) {}

// Fatalf keeps the reason for StartNATS. The server's own logger would end the process here.
func (l *natsLogger) Fatalf(format string, v ...any) {
	l.write(slog.LevelWarn, format, v)
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}

func (l *natsLogger) write(level slog.Level, format string, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "nats server", "text", fmt.Sprintf(format, v...))
	}
}
