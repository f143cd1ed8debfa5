package embedded

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An unfinished cluster lies beside the finished one under this name.
const pgUnfinished = "data.initdb-"

// ErrPostgresVersion says that the binaries are of another version than the cluster.
var ErrPostgresVersion = errors.New("postgres version does not fit")

// pgHBA: the socket's folder is closed to others, so there everybody is trusted.
const pgHBA = `# Written by rekey at each start.
local  all          all               trust
local  replication  all               trust
host   all          all  127.0.0.1/32  scram-sha-256
host   all          all  ::1/128       scram-sha-256
`

// pgClusterVersion is the major version that made a cluster; 0 if there is none yet.
func pgClusterVersion(data string) (int, error) {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read cluster version: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read cluster version: %s/PG_VERSION holds no number", data)
	}
	return major, nil
}

// pgCheckVersion refuses binaries that did not make the cluster. Postgres would, too; this one says what
// to do.
func pgCheckVersion(data, bin string, major int) error {
	made, err := pgClusterVersion(data)
	if err != nil || made == 0 || made == major {
		return err
	}
	return fmt.Errorf("%w: the cluster in %s was made by PostgreSQL %d, the binaries in %s are %d; nothing was changed. "+
		"Set %s to the folder of PostgreSQL %d, or move the data over with pg_upgrade or pg_dump, "+
		"or set REKEY_DATA_DIR to another folder to begin anew",
		ErrPostgresVersion, data, made, bin, major, pgBinEnv, made)
}

// ensureCluster makes the cluster if there is none. initdb works in a folder of another name, which a
// rename makes the cluster's only when all is done and synced: a crash in between leaves no cluster
// instead of half of one.
func (p *Postgres) ensureCluster(ctx context.Context, fast bool) error {
	if err := p.removeUnfinished(); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.data)
	switch {
	case err == nil && pgExists(filepath.Join(p.data, "PG_VERSION")):
		return p.adoptCluster()
	case err == nil && len(entries) > 0:
		return fmt.Errorf("use cluster: %s holds files but no cluster (no PG_VERSION); move them away, nothing was changed", p.data)
	case err == nil:
		// A rename in Go does not replace a folder, not even an empty one.
		err = os.Remove(p.data)
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return fmt.Errorf("look at cluster: %w", err)
	}
	unfinished, err := os.MkdirTemp(p.dir, pgUnfinished)
	if err != nil {
		return fmt.Errorf("make cluster folder: %w", err)
	}
	defer os.RemoveAll(unfinished) // of no use after an error; gone after success
	if err := p.account.own(unfinished); err != nil {
		return fmt.Errorf("make cluster folder: %w", err)
	}
	if err := p.initdb(ctx, unfinished, fast); err != nil {
		return err
	}
	if err := os.Rename(unfinished, p.data); err != nil {
		return fmt.Errorf("name finished cluster: %w", err)
	}
	p.passwordNew = true
	return pgSyncDir(p.dir)
}

// adoptCluster hands a cluster that root copied here to the account.
func (p *Postgres) adoptCluster() error {
	info, err := os.Stat(p.data)
	if err != nil {
		return fmt.Errorf("look at cluster: %w", err)
	}
	if !p.account.drop || info.Sys().(*syscall.Stat_t).Uid == p.account.uid {
		return nil
	}
	if err := p.account.ownTree(p.data); err != nil {
		return fmt.Errorf("hand cluster over: %w", err)
	}
	return nil
}

func (p *Postgres) initdb(ctx context.Context, data string, fast bool) error {
	// The cluster's own pg_hba.conf is not used by us. It lets nobody in over TCP, should a person start the
	// cluster without our settings.
	args := []string{"-D", data, "-U", pgSuperuser, "-E", "UTF8", "--locale=C",
		"--auth-local=trust", "--auth-host=reject", "--no-instructions"}
	if fast {
		args = append(args, "--no-sync", "--wal-segsize=1")
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), args...)
	cmd.Dir = data
	cmd.Env = pgEnv()
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = pgProcAttr(p.account.credential())
	// initdb's own children are in its group, and hold its output open.
	cmd.Cancel = func() error { return pgKillGroup(cmd.Process.Pid) }
	cmd.WaitDelay = time.Second
	child, err := pgStartChild(cmd)
	if err != nil {
		return fmt.Errorf("run initdb: %w", err)
	}
	<-child.exited
	if child.err != nil {
		return fmt.Errorf("run initdb: %w:\n%s", errors.Join(child.err, ctx.Err()), strings.TrimSpace(output.String()))
	}
	return nil
}

func pgKillGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// removeUnfinished removes what an interrupted initdb left. Where it outlived its parent it may still
// write, until its folder is gone; hence the tries.
func (p *Postgres) removeUnfinished() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("look for unfinished cluster: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), pgUnfinished) {
			continue
		}
		folder := filepath.Join(p.dir, entry.Name())
		err := os.RemoveAll(folder)
		for tries := 0; err != nil && tries < 50; tries++ {
			time.Sleep(20 * time.Millisecond)
			err = os.RemoveAll(folder)
		}
		if err != nil {
			p.log.Warn("unfinished cluster not removed", "folder", folder, "error", err)
		}
	}
	return nil
}

// ensurePasswordFile makes the superuser's password for TCP once and keeps it in a file only we can read.
func (p *Postgres) ensurePasswordFile() error {
	path := filepath.Join(p.dir, "password")
	kept, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read password: %w", err)
	}
	if p.password = strings.TrimSpace(string(kept)); p.password != "" {
		return nil
	}
	// A crash may leave the file empty, or its text may get lost: then there is a new password.
	p.password, p.passwordNew = rand.Text(), true
	if err := os.WriteFile(path, []byte(p.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep password: %w", err)
	}
	return nil
}

// pgWriteHBA writes the access rules. They lie outside the cluster, whose owner is less trusted than we
// may be: writing there could be led astray by a link.
func pgWriteHBA(dir string) (string, error) {
	path := filepath.Join(dir, "pg_hba.conf")
	if err := os.WriteFile(path, []byte(pgHBA), 0o644); err != nil {
		return "", fmt.Errorf("write access rules: %w", err)
	}
	// The server's user reads it; a umask may have closed it.
	if err := os.Chmod(path, 0o644); err != nil {
		return "", fmt.Errorf("write access rules: %w", err)
	}
	return path, nil
}

// pgScramVerifier is what Postgres stores for a password (RFC 5803). Made here, so that the password is
// in no statement, which the server might log.
func pgScramVerifier(password string) (string, error) {
	const iterations = 4096
	salt := make([]byte, 16)
	rand.Read(salt)
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	storedKey := sha256.Sum256(pgHMAC(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(storedKey[:]), b64(pgHMAC(salted, "Server Key"))), nil
}

func pgHMAC(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// pgSyncDir makes a rename in the folder survive a crash of the machine.
func pgSyncDir(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
