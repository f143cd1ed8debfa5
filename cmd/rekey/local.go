package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/embedded"
	"github.com/rekeyhq/rekey/internal/seal"
)

// local is what dev runs on this machine: a private Postgres and a NATS, as far as no URL names others.
type local struct {
	postgres *embedded.Postgres
	nats     *embedded.NATS
}

// startLocal starts them and writes their addresses into the configuration, and into the file env of the data directory,
// so that `rekey serve` can join as one more replica.
func startLocal(ctx context.Context, cfg *Config) (*local, error) {
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	if err := embedded.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("make the data directory: %w; set REKEY_DATA_DIR to another", err)
	}
	if cfg.MasterKey == nil {
		if cfg.MasterKey, err = masterKey(dir); err != nil {
			return nil, err
		}
	}
	l := &local{}
	joinURL := cfg.DatabaseURL
	if cfg.DatabaseURL == "" {
		l.postgres, err = embedded.StartPostgres(ctx, embedded.PostgresConfig{Dir: filepath.Join(dir, "postgres"), MaxConnections: 200, Logger: cfg.Logger})
		if err != nil {
			return l, err
		}
		cfg.DatabaseURL, joinURL = l.postgres.URL("postgres"), l.postgres.TCPURL("postgres")
	}
	if cfg.NATSURL == "" {
		if err := l.startNATS(cfg, dir); err != nil {
			return l, err
		}
	}
	return l, writeEnv(filepath.Join(dir, "env"), cfg, joinURL)
}

// startNATS starts the embedded server; the token lets rekey's own processes in.
func (l *local) startNATS(cfg *Config, dir string) (err error) {
	token, err := keptInFile(filepath.Join(dir, "nats.token"), func() string { return rand.Text() + rand.Text() })
	if err != nil {
		return err
	}
	l.nats, err = embedded.StartNATS(embedded.NATSConfig{
		Addr: cfg.NATSAddr, StoreDir: filepath.Join(dir, "jetstream"), ServiceToken: token, Logger: cfg.Logger,
	})
	if err != nil {
		return fmt.Errorf("start NATS on %s: %w; REKEY_NATS_ADDR sets another address", cfg.NATSAddr, err)
	}
	u, err := url.Parse(l.nats.URL())
	if err != nil {
		return fmt.Errorf("read the address of NATS: %w", err)
	}
	u.User = url.User(token)
	cfg.NATSURL = u.String()
	return nil
}

// masterKey reads the installation's master key, or makes it.
func masterKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, "master.key")
	text, err := keptInFile(path, func() string { return encodeMasterKey(seal.NewKey()) })
	if err != nil {
		return nil, err
	}
	key, err := seal.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// keptInFile returns the content of a private file, and makes it at the first time. It is written beside and renamed, so
// that a crash leaves no half of it.
func keptInFile(path string, create func() string) (string, error) {
	raw, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(raw)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	text := create()
	return text, writePrivate(path, text+"\n")
}

// writePrivate writes a file that only its owner may read, whole or not at all.
func writePrivate(path, content string) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.WriteString(content)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(file.Name()))
	}
	return nil
}

// writeEnv writes the variables with which `rekey serve` on this machine joins as one more replica.
func writeEnv(path string, cfg *Config, databaseURL string) error {
	var allow []string
	for _, prefix := range cfg.WebhookAllow {
		allow = append(allow, prefix.String())
	}
	var b strings.Builder
	for _, v := range [][2]string{
		{"REKEY_DATABASE_URL", databaseURL},
		{"REKEY_NATS_URL", cfg.NATSURL},
		{"REKEY_MASTER_KEY", encodeMasterKey(cfg.MasterKey)},
		{"REKEY_WEBHOOK_ALLOW", strings.Join(allow, ",")},
		{"REKEY_MIN_ROTATION_INTERVAL", cfg.MinRotationInterval.String()},
		{"REKEY_GATEWAY_ORGANIZATION", cfg.GatewayOrganization},
		{"REKEY_METRICS_ADDR", "127.0.0.1:0"}, // the one who wrote this has the usual port
	} {
		fmt.Fprintf(&b, "%s='%s'\n", v[0], v[1])
	}
	return writePrivate(path, b.String())
}

// watch fails if Postgres ends by itself: without it nothing here can work, and a supervisor should start all again.
func (l *local) watch(ctx context.Context) error {
	if l.postgres == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-l.postgres.Done():
		return fmt.Errorf("the embedded Postgres ended: %w", l.postgres.Err())
	}
}

// addresses are those of the embedded servers.
func (l *local) addresses() []netip.AddrPort {
	var urls []string
	if l.postgres != nil {
		urls = append(urls, l.postgres.TCPURL("postgres"))
	}
	if l.nats != nil {
		urls = append(urls, l.nats.URL())
	}
	var out []netip.AddrPort
	for _, raw := range urls {
		if u, err := url.Parse(raw); err == nil {
			if addr, err := netip.ParseAddrPort(u.Host); err == nil {
				out = append(out, addr)
			}
		}
	}
	return out
}

// stop ends the embedded servers.
func (l *local) stop() {
	if l.nats != nil {
		l.nats.Stop()
	}
	if l.postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = l.postgres.Stop(ctx)
	}
}
