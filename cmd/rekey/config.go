package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// Config says how a process runs. It comes from the environment (fromEnv) or from a test.
type Config struct {
	// Dev runs an embedded Postgres and NATS where no URL names another, migrates, and allows webhooks to loopback.
	Dev   bool
	Roles []string // api, worker, relay

	Addr        string
	MetricsAddr string
	DataDir     string // dev only
	DatabaseURL string
	NATSURL     string
	NATSAddr    string // where the embedded server listens
	RootKey     domain.Secret
	MasterKey   []byte // nil in dev: kept in the data directory
	// WebhookAllow lists networks that webhooks may reach beside the public internet.
	WebhookAllow []netip.Prefix
	// WebhookProxy lets webhooks out; nil: they leave directly.
	WebhookProxy *url.URL
	// PublicURL is where receivers reach the API; empty: where it listens.
	PublicURL           string
	MinRotationInterval time.Duration
	// GatewayOrganization is whose keys gateways ask about that show no key of their own; empty: they may not ask.
	GatewayOrganization string
	// UsageRetention is how long events of use, and the series by the hour, are kept.
	UsageRetention time.Duration
	// TrustedProxies lists networks of proxies whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// GitHub checks the signatures of GitHub's secret scanning; nil: no batch is taken.
	GitHub func(keyID, signature string, body []byte) error

	Logger *slog.Logger
	Out    io.Writer // gets the ready line
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// wrapBarrier replaces what commands wait at. Nothing sets it but the test that shows what the barrier is for.
	wrapBarrier func(commands.Barrier) commands.Barrier
}

func (c *Config) clock() func() time.Time {
	if c.Now != nil {
		return c.Now
	}
	return time.Now
}

// Roles of a process.
const (
	roleAPI    = "api"
	roleWorker = "worker"
	roleRelay  = "relay"
)

// setting is one environment variable; docs/configuration.md lists the same, and a test compares them.
type setting struct{ name, byDefault, meaning string }

var settings = []setting{
	{"REKEY_ADDR", "127.0.0.1:8080", "where the API listens"},
	{"REKEY_METRICS_ADDR", "127.0.0.1:9464", "where metrics and pprof listen"},
	{"REKEY_DATA_DIR", ".rekey", "dev: Postgres cluster, JetStream store, master key"},
	{"REKEY_DATABASE_URL", "", "Postgres; dev: the embedded one"},
	{"REKEY_NATS_URL", "", "NATS; dev: the embedded one"},
	{"REKEY_NATS_ADDR", "127.0.0.1:4222", "dev: where the embedded NATS listens"},
	{"REKEY_ROOT_KEY", "", "first start: the root key to install; unset: made and printed once"},
	{"REKEY_MASTER_KEY", "", "base64 of 32 bytes that seals what waits; dev: made in the data directory"},
	{"REKEY_WEBHOOK_ALLOW", "", "networks (CIDRs, comma-separated) that webhooks may reach beside the public internet; dev: loopback"},
	{"REKEY_WEBHOOK_PROXY", "", "proxy that webhooks leave through, such as http://proxy.example.com:3128; unset: none, whatever HTTPS_PROXY says"},
	{"REKEY_PUBLIC_URL", "", "where receivers of webhooks reach the API to fetch secrets, such as https://rekey.example.com; unset: http and where the API listens"},
	{"REKEY_TRUSTED_PROXIES", "", "networks (CIDRs, comma-separated) of proxies whose X-Forwarded-For says where a request came from"},
	{"REKEY_MIN_ROTATION_INTERVAL", "", "shortest rotation interval; 1h, dev: 1s"},
	{"REKEY_USAGE_RETENTION", "90d", "how long events of use and hourly counts are kept, such as 30d; daily counts are kept two years at least"},
	{"REKEY_GATEWAY_ORGANIZATION", "", "dev: first; whose keys gateways ask about at /v1/auth without a key of their own: an id, or first for the organization of the first start"},
	{"REKEY_GITHUB_SECRET_SCANNING_KEYS", "", "file with GitHub's public keys for secret scanning; unset: no batches of leaks are taken"},
	{"REKEY_LOG_LEVEL", "info", "debug, info, warn or error"},
	{"REKEY_POSTGRES_BIN", "", "dev: folder of the Postgres binaries"},
}

// configFromEnv reads the environment. Every fault names its variable and the remedy.
func configFromEnv(dev bool, roles []string) (Config, error) {
	env := map[string]string{}
	for _, s := range settings {
		env[s.name] = s.byDefault
		if v := os.Getenv(s.name); v != "" {
			env[s.name] = v
		}
	}
	c := Config{
		Dev: dev, Roles: roles, Addr: env["REKEY_ADDR"], MetricsAddr: env["REKEY_METRICS_ADDR"], DataDir: env["REKEY_DATA_DIR"],
		DatabaseURL: env["REKEY_DATABASE_URL"], NATSURL: env["REKEY_NATS_URL"], NATSAddr: env["REKEY_NATS_ADDR"], Out: os.Stdout,
	}
	return c, errors.Join(c.readLogLevel(env), c.checkURLs(), c.readKeys(env), c.readWebhooks(env), c.readPublicURL(env["REKEY_PUBLIC_URL"]), c.readProxies(env),
		c.readInterval(env), c.readGatewayOrganization(env["REKEY_GATEWAY_ORGANIZATION"]), c.readRetention(env["REKEY_USAGE_RETENTION"]), c.readGitHubKeys(env["REKEY_GITHUB_SECRET_SCANNING_KEYS"]), c.validate())
}

func (c *Config) readLogLevel(env map[string]string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(env["REKEY_LOG_LEVEL"])); err != nil {
		return fmt.Errorf("REKEY_LOG_LEVEL is %q; use debug, info, warn or error", env["REKEY_LOG_LEVEL"])
	}
	c.Logger = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return nil
}

// checkURLs finds out early what cannot be an address. It does not repeat them: they hold passwords and tokens.
func (c *Config) checkURLs() error {
	var wrong []error
	if _, err := pgxpool.ParseConfig(c.DatabaseURL); c.DatabaseURL != "" && err != nil {
		wrong = append(wrong, errors.New("REKEY_DATABASE_URL cannot be read; write it like postgres://user:password@host:5432/database?sslmode=verify-full"))
	}
	for server := range strings.SplitSeq(c.NATSURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); c.NATSURL != "" && (err != nil || u.Host == "") {
			wrong = append(wrong, errors.New("REKEY_NATS_URL cannot be read; write it like nats://token@host:4222, several separated by commas"))
			break
		}
	}
	return errors.Join(wrong...)
}

func (c *Config) readPublicURL(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("REKEY_PUBLIC_URL cannot be used; write it like https://rekey.example.com, without a query")
	}
	c.PublicURL = strings.TrimSuffix(raw, "/")
	return nil
}

func (c *Config) readKeys(env map[string]string) error {
	return errors.Join(c.readRootKey(env["REKEY_ROOT_KEY"]), c.readMasterKey(env["REKEY_MASTER_KEY"]))
}

func (c *Config) readRootKey(raw string) error {
	if raw == "" {
		return nil
	}
	root, ok := domain.ParseSecret(raw)
	if !ok || len(raw) < domain.MinSecretLength {
		return fmt.Errorf("REKEY_ROOT_KEY is not a key: use %d to %d printable characters without spaces, or leave it unset and one is made",
			domain.MinSecretLength, domain.MaxSecretLength)
	}
	c.RootKey = root
	return nil
}

func (c *Config) readMasterKey(raw string) (err error) {
	switch {
	case raw == "" && c.Dev:
		return nil
	case raw == "":
		return errors.New("REKEY_MASTER_KEY is not set; make one with `openssl rand -base64 32` and keep it safe")
	}
	if c.MasterKey, err = seal.ParseKey(raw); err != nil {
		return fmt.Errorf("REKEY_MASTER_KEY: %w", err)
	}
	return nil
}

func (c *Config) readWebhooks(env map[string]string) (err error) {
	if c.Dev {
		c.WebhookAllow = webhook.LoopbackPrefixes()
	}
	if raw := env["REKEY_WEBHOOK_ALLOW"]; raw != "" {
		if c.WebhookAllow, err = webhook.ParsePrefixes(raw); err != nil {
			return fmt.Errorf("REKEY_WEBHOOK_ALLOW: %w", err)
		}
	}
	if raw := env["REKEY_WEBHOOK_PROXY"]; raw != "" {
		if c.WebhookProxy, err = webhook.ParseProxy(raw); err != nil {
			return fmt.Errorf("REKEY_WEBHOOK_PROXY %w", err)
		}
	}
	return nil
}

func (c *Config) readProxies(env map[string]string) (err error) {
	if c.TrustedProxies, err = webhook.ParsePrefixes(env["REKEY_TRUSTED_PROXIES"]); err != nil {
		return fmt.Errorf("REKEY_TRUSTED_PROXIES: %w", err)
	}
	for _, prefix := range c.TrustedProxies {
		if prefix.Addr().Is4In6() { // addresses are compared in one spelling; this one would match nothing
			return fmt.Errorf("REKEY_TRUSTED_PROXIES: write %s as IPv4", prefix)
		}
	}
	return nil
}

func (c *Config) readInterval(env map[string]string) (err error) {
	c.MinRotationInterval = time.Hour
	if c.Dev {
		c.MinRotationInterval = time.Second
	}
	if raw := env["REKEY_MIN_ROTATION_INTERVAL"]; raw != "" {
		if c.MinRotationInterval, err = time.ParseDuration(raw); err != nil || c.MinRotationInterval < time.Second {
			return fmt.Errorf("REKEY_MIN_ROTATION_INTERVAL is %q; use a duration of at least 1s, such as 30m", raw)
		}
	}
	return nil
}

// firstOrganization stands for the organization that the first start made.
const firstOrganization = "first"

func (c *Config) readGatewayOrganization(raw string) error {
	if raw == "" && c.Dev {
		raw = firstOrganization
	}
	if raw != "" && raw != firstOrganization && !domain.ValidID(domain.PrefixOrganization, raw) {
		return fmt.Errorf("REKEY_GATEWAY_ORGANIZATION is %q; use the id of an organization, or %s", raw, firstOrganization)
	}
	c.GatewayOrganization = raw
	return nil
}

// readRetention takes days, which durations of Go do not have, and durations.
func (c *Config) readRetention(raw string) (err error) {
	const most = 3650
	if days, ok := strings.CutSuffix(raw, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		c.UsageRetention = time.Duration(min(n, most+1)) * 24 * time.Hour
	} else {
		c.UsageRetention, err = time.ParseDuration(raw)
	}
	if err != nil || c.UsageRetention < 24*time.Hour || c.UsageRetention > most*24*time.Hour {
		return fmt.Errorf("REKEY_USAGE_RETENTION is %q; use days from 1d to %dd, or a duration such as 720h", raw, most)
	}
	return nil
}

// validate checks what only production needs.
func (c *Config) validate() error {
	if c.Dev {
		return nil
	}
	var missing []error
	if c.DatabaseURL == "" {
		missing = append(missing, errors.New("REKEY_DATABASE_URL is not set; name a Postgres 15 to 18, or use `rekey dev`"))
	}
	if c.NATSURL == "" {
		missing = append(missing, errors.New("REKEY_NATS_URL is not set; name a NATS with JetStream, or use `rekey dev`"))
	}
	for _, role := range c.Roles {
		if role != roleAPI && role != roleWorker && role != roleRelay {
			missing = append(missing, fmt.Errorf("role %q is unknown; use api, worker, relay", role))
		}
	}
	return errors.Join(missing...)
}

// summary is what the log may show of the configuration.
func (c *Config) summary() slog.Attr {
	return slog.Group("config",
		"dev", c.Dev, "roles", strings.Join(c.Roles, ","), "addr", c.Addr, "metrics_addr", c.MetricsAddr, "data_dir", c.DataDir,
		"database", redactURL(c.DatabaseURL), "nats", redactURL(c.NATSURL), "webhook_allow", fmt.Sprint(c.WebhookAllow), "webhook_proxy", proxyHost(c.WebhookProxy),
		"trusted_proxies", fmt.Sprint(c.TrustedProxies),
		"gateway_organization", c.GatewayOrganization, "min_rotation_interval", c.MinRotationInterval.String(), "usage_retention", c.UsageRetention.String(),
		"github_secret_scanning", c.GitHub != nil)
}

// proxyHost leaves out who we are to the proxy.
func proxyHost(proxy *url.URL) string {
	if proxy == nil {
		return ""
	}
	return proxy.Host
}

// redactURL leaves only what helps to tell servers apart. NATS takes a list of servers; Postgres also takes settings that
// are no URL, and of those nothing is shown.
func redactURL(raw string) string {
	if raw == "" {
		return "embedded"
	}
	servers := []string{raw}
	if !strings.HasPrefix(raw, "postgres") {
		servers = strings.Split(raw, ",")
	}
	for i, server := range servers {
		u, err := url.Parse(strings.TrimSpace(server))
		if err != nil || u.Scheme == "" {
			return "[redacted]"
		}
		servers[i] = u.Scheme + "://" + u.Host + u.Path
	}
	return strings.Join(servers, ",")
}

func encodeMasterKey(key []byte) string { return base64.StdEncoding.EncodeToString(key) }
