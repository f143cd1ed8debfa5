package main

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/internal/webhook"
)

var allRoles = []string{roleAPI, roleWorker, roleRelay}

// TestConfigDefaults says what holds where nothing is set.
func TestConfigDefaults(t *testing.T) {
	dev, err := configFromEnv(true, allRoles)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{
		dev.Dev, dev.Addr, dev.MetricsAddr, dev.DataDir, dev.DatabaseURL, dev.NATSURL, dev.NATSAddr, dev.RootKey.IsZero(),
		len(dev.MasterKey), dev.MinRotationInterval, dev.Logger.Enabled(t.Context(), slog.LevelInfo), dev.Logger.Enabled(t.Context(), slog.LevelDebug),
	}
	want := []any{true, "127.0.0.1:8080", "127.0.0.1:9464", ".rekey", "", "", "127.0.0.1:4222", true, 0, time.Second, true, false}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("dev (-want +got):\n%s", diff)
	}
	if !slices.Equal(dev.WebhookAllow, webhook.LoopbackPrefixes()) {
		t.Errorf("dev lets webhooks go to %v", dev.WebhookAllow)
	}
	setRequired(t)
	serve, err := configFromEnv(false, allRoles)
	if err != nil {
		t.Fatal(err)
	}
	if len(serve.TrustedProxies) != 0 || len(dev.TrustedProxies) != 0 {
		t.Errorf("proxies are trusted without being named: %v, %v", serve.TrustedProxies, dev.TrustedProxies)
	}
	if len(serve.WebhookAllow) != 0 || serve.MinRotationInterval != time.Hour || serve.Addr != "127.0.0.1:8080" {
		t.Errorf("serve lets webhooks go to %v and keys rotate each %s", serve.WebhookAllow, serve.MinRotationInterval)
	}
}

// setRequired sets what serve cannot do without.
func setRequired(t *testing.T) {
	t.Setenv("REKEY_DATABASE_URL", "postgres://rekey:hidden-password@db.internal:5432/rekey")
	t.Setenv("REKEY_NATS_URL", "nats://hidden-token@n1.internal:4222,nats://hidden-token@n2.internal:4222")
	t.Setenv("REKEY_MASTER_KEY", base64.StdEncoding.EncodeToString(make([]byte, 32)))
}

// TestConfigReadsAll sets every variable, and looks whether it arrives.
func TestConfigReadsAll(t *testing.T) {
	setRequired(t)
	for name, value := range map[string]string{
		"REKEY_ADDR": "0.0.0.0:80", "REKEY_METRICS_ADDR": "0.0.0.0:81", "REKEY_DATA_DIR": "/data", "REKEY_NATS_ADDR": "0.0.0.0:82",
		"REKEY_ROOT_KEY": strings.Repeat("hidden-root-", 4), "REKEY_WEBHOOK_ALLOW": "10.0.0.0/8, fd00::/8",
		"REKEY_MIN_ROTATION_INTERVAL": "30m", "REKEY_LOG_LEVEL": "debug", "REKEY_TRUSTED_PROXIES": "10.1.0.0/16,fd00::/8",
		"REKEY_WEBHOOK_PROXY": "http://rekey:hidden@proxy.internal:3128",
	} {
		t.Setenv(name, value)
	}
	for _, dev := range []bool{true, false} {
		c, err := configFromEnv(dev, allRoles)
		if err != nil {
			t.Fatal(err)
		}
		got := []any{
			c.Addr, c.MetricsAddr, c.DataDir, c.DatabaseURL, c.NATSURL, c.NATSAddr, c.RootKey.Reveal(), len(c.MasterKey),
			len(c.WebhookAllow), fmt.Sprint(c.TrustedProxies), c.MinRotationInterval, c.Logger.Enabled(t.Context(), slog.LevelDebug), c.WebhookProxy.Host,
		}
		want := []any{
			"0.0.0.0:80", "0.0.0.0:81", "/data", os.Getenv("REKEY_DATABASE_URL"), os.Getenv("REKEY_NATS_URL"), "0.0.0.0:82",
			os.Getenv("REKEY_ROOT_KEY"), 32, 2, "[10.1.0.0/16 fd00::/8]", 30 * time.Minute, true, "proxy.internal:3128",
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		summary := c.summary().String()
		if strings.Contains(summary, "hidden") || !strings.Contains(summary, "db.internal:5432/rekey") || !strings.Contains(summary, "n2.internal:4222") {
			t.Errorf("the log would show %s", summary)
		}
	}
}

// TestConfigRefuses requires that each fault names its variable and the remedy, and repeats no secret.
func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, value, remedy string }{
		{"REKEY_ROOT_KEY", "hidden", "32 to 512 printable characters"},
		{"REKEY_ROOT_KEY", "hidden hidden hidden hidden hidden hidden", "32 to 512 printable characters"},
		{"REKEY_ROOT_KEY", "rk_live_hidden00hidden00hidden00hidden00hidden0", "leave it unset"},
		{"REKEY_ROOT_KEY", strings.Repeat("hidden", 100), "32 to 512 printable characters"},
		{"REKEY_ROOT_KEY", strings.Repeat("h", 31), "32 to 512 printable characters"},
		{"REKEY_WEBHOOK_PROXY", "socks5://hidden@proxy:1080", "http://proxy.example.com:3128"},
		{"REKEY_MASTER_KEY", "hidden", "openssl rand -base64 32"},
		{"REKEY_MASTER_KEY", base64.StdEncoding.EncodeToString([]byte("hidden")), "openssl rand -base64 32"},
		{"REKEY_WEBHOOK_ALLOW", "10.0.0.1", "a CIDR such as 10.0.0.0/8"},
		{"REKEY_WEBHOOK_ALLOW", "10.0.0.0/8,intranet", "a CIDR such as 10.0.0.0/8"},
		{"REKEY_TRUSTED_PROXIES", "10.0.0.1", "a CIDR such as 10.0.0.0/8"},
		{"REKEY_TRUSTED_PROXIES", "10.0.0.0/8, ::ffff:10.0.0.0/104", "as IPv4"},
		{"REKEY_MIN_ROTATION_INTERVAL", "60", "such as 30m"},
		{"REKEY_MIN_ROTATION_INTERVAL", "500ms", "at least 1s"},
		{"REKEY_MIN_ROTATION_INTERVAL", "-1h", "at least 1s"},
		{"REKEY_LOG_LEVEL", "loud", "use debug, info, warn or error"},
		{"REKEY_GITHUB_SECRET_SCANNING_KEYS", "nowhere.json", "no such file"},
		{"REKEY_GITHUB_SECRET_SCANNING_KEYS", "config_test.go", "save what https://api.github.com/meta/public_keys/secret_scanning answers"},
		{"REKEY_DATABASE_URL", "postgres://user:hidden@host:port/db", "write it like postgres://"},
		{"REKEY_DATABASE_URL", "postgres://user:hidden@host/db?sslmode=perhaps", "write it like postgres://"},
		{"REKEY_DATABASE_URL", "mysql://user:hidden@host/db", "write it like postgres://"},
		{"REKEY_NATS_URL", "nats://hidden@host:port", "write it like nats://"},
		{"REKEY_NATS_URL", "hidden@host:4222", "write it like nats://"},
		{"REKEY_NATS_URL", "nats://hidden@host:4222,", "write it like nats://"},
	} {
		t.Run(c.name, func(t *testing.T) {
			setRequired(t)
			t.Setenv(c.name, c.value)
			for _, dev := range []bool{true, false} {
				_, err := configFromEnv(dev, allRoles)
				if err == nil {
					t.Fatalf("%q is accepted", c.value)
				}
				text := err.Error()
				if !strings.HasPrefix(text, c.name) || !strings.Contains(text, c.remedy) || strings.Contains(text, "hidden") || strings.Contains(text, "\n") {
					t.Errorf("of %q it says: %s", c.value, text)
				}
			}
		})
	}
}

// TestConfigMissing requires that serve names everything that is missing at once.
func TestConfigMissing(t *testing.T) {
	_, err := configFromEnv(false, []string{roleAPI, "cook"})
	if err == nil {
		t.Fatal("serve needs nothing")
	}
	for _, want := range []string{"REKEY_DATABASE_URL", "REKEY_NATS_URL", "REKEY_MASTER_KEY", "openssl rand -base64 32", `role "cook"`, "rekey dev"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it does not name %s: %v", want, err)
		}
	}
	if _, err := command(t, "", "serve"); err == nil || !strings.Contains(err.Error(), "REKEY_DATABASE_URL is not set") {
		t.Errorf("rekey serve says: %v", err)
	}
}

// TestConfigAddresses requires that an address which cannot be listened on is told with its variable.
func TestConfigAddresses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		variable, value string
		set             func(*Config)
	}{
		{"REKEY_ADDR", taken.Addr().String(), func(c *Config) { c.Addr = taken.Addr().String() }},
		{"REKEY_ADDR", "nowhere", func(c *Config) { c.Addr = "nowhere" }},
		{"REKEY_METRICS_ADDR", taken.Addr().String(), func(c *Config) { c.MetricsAddr = taken.Addr().String() }},
		{"REKEY_NATS_ADDR", taken.Addr().String(), func(c *Config) { c.NATSAddr = taken.Addr().String() }},
		{"REKEY_NATS_ADDR", "nowhere", func(c *Config) { c.NATSAddr = "nowhere" }},
		{"REKEY_DATA_DIR", file, func(c *Config) { c.DataDir = file }},
	} {
		_, err := tryStart(t, c.set)
		if err == nil {
			t.Errorf("%s=%s is accepted", c.variable, c.value)
			continue
		}
		if !strings.Contains(err.Error(), c.variable) || !strings.Contains(err.Error(), c.value) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s=%s: %v", c.variable, c.value, err)
		}
	}
	t.Setenv("REKEY_POSTGRES_BIN", t.TempDir())
	if _, err := tryStart(t); err == nil || !strings.Contains(err.Error(), "REKEY_POSTGRES_BIN") {
		t.Errorf("with a folder that has no Postgres: %v", err)
	}
}

// TestConfigRedactsURLs requires that what is shown of an address never has its password, however it is written.
func TestConfigRedactsURLs(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"": "embedded",
		"postgres://u:hidden@h:5432/db?sslmode=disable":          "postgres://h:5432/db",
		"postgresql://u:hidden@h1:1,h2:2/db":                     "postgresql://h1:1,h2:2/db",
		"postgres://u:12,hidden@h/db":                            "postgres://h/db",
		"postgres://rekey@/postgres?host=%2Frun&password=hidden": "postgres:///postgres",
		"host=h user=u password=hidden":                          "[redacted]",
		"nats://hidden@h:4222":                                   "nats://h:4222",
		"nats://hidden@a:1,nats://hidden@b:2":                    "nats://a:1,nats://b:2",
		"nats://hidden@a:1,hidden@b:2":                           "[redacted]",
		"tls://u:hidden@a:1, tls://u:hidden@b:2":                 "tls://a:1,tls://b:2",
		"nats://hidden@h:port":                                   "[redacted]",
	} {
		if got := redactURL(raw); got != want {
			t.Errorf("of %s it shows %s, not %s", raw, got, want)
		}
	}
}

// TestConfigDocumented requires that docs/configuration.md lists exactly the variables that are read.
func TestConfigDocumented(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, read []string
	defaults := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`REKEY_") {
			continue
		}
		name := strings.Trim(strings.TrimSpace(cells[1]), "`")
		documented, defaults[name] = append(documented, name), cells[2]
	}
	for _, s := range settings {
		read = append(read, s.name)
		if s.byDefault != "" && !strings.Contains(defaults[s.name], "`"+s.byDefault+"`") {
			t.Errorf("the default of %s is %s, and documented as %s", s.name, s.byDefault, defaults[s.name])
		}
	}
	if diff := gocmp.Diff(read, documented); diff != "" {
		t.Errorf("docs/configuration.md (-read +documented):\n%s", diff)
	}
}
