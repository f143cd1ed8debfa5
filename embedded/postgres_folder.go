package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// A killed process may need a moment until the kernel has let go of its lock.
	pgLockWait = time.Second
	pgLockPoll = 20 * time.Millisecond

	pgSocketTemp = "rekey-pg-"
	// The longest name in the socket folder, and the room that the kernel leaves for a path.
	pgSocketName = "/.s.PGSQL.65535"
	pgSocketRoom = len(syscall.RawSockaddrUnix{}.Path) - 1
)

// MakeDir makes a folder and its missing parents: for us alone or, when we are root, such that the
// server's user can pass through (mode 0711), which it must be able to in every folder above its own.
// Folders that exist are left as they are.
func MakeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("make path absolute: %w", err)
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return fmt.Errorf("make folder: %w", &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR})
	}
	if pgExists(dir) {
		return nil
	}
	if err := MakeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	err = os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(dir, mode) // past the umask
	}
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

// pgLockDir takes the lock that makes this process the folder's only user. The kernel drops it when the
// process ends in whatever way; children do not inherit it.
func pgLockDir(ctx context.Context, dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for deadline := time.Now().Add(pgLockWait); ; {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		time.Sleep(pgLockPoll)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := os.ReadFile(lock.Name())
		lock.Close()
		return nil, fmt.Errorf("%w: process %s runs a server in %s; stop it, or set REKEY_DATA_DIR to another folder",
			ErrPostgresInUse, cmp.Or(strings.TrimSpace(string(holder)), "unknown"), dir)
	}
	if err == nil {
		err = lock.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(lock, "%d\n", os.Getpid())
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	return lock, nil
}

// pgMakeSocketDir makes the folder of the unix socket, anew at each start: what an earlier server
// left in it would name a process that may be another's by now.
func pgMakeSocketDir(ctx context.Context, dir, bin string, account pgAccount) (string, error) {
	pgRemoveSocketDir(dir)
	run := filepath.Join(dir, "run")
	if pgSocketFits(run) {
		if err := os.Mkdir(run, 0o700); err != nil {
			return "", fmt.Errorf("make socket folder: %w", err)
		}
		return run, account.own(run)
	}
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if !pgSocketFits(filepath.Join(base, pgSocketTemp+"1234567890")) {
			continue
		}
		temp, err := os.MkdirTemp(base, pgSocketTemp+"*")
		if err != nil {
			return "", fmt.Errorf("make socket folder: %w", err)
		}
		// The link shows people where the sockets are, and the next start what to remove.
		if err := errors.Join(account.own(temp), os.Symlink(temp, run)); err != nil {
			return "", fmt.Errorf("make socket folder: %w", errors.Join(err, os.Remove(temp)))
		}
		return temp, account.checkReach(ctx, bin, temp)
	}
	return "", fmt.Errorf("make socket folder: neither %s nor the temporary folder is short enough for a unix socket", run)
}

// pgRemoveSocketDir removes it wherever it is; a remainder that stays is met again by the next start.
func pgRemoveSocketDir(dir string) {
	run := filepath.Join(dir, "run")
	if temp, err := os.Readlink(run); err == nil && strings.HasPrefix(filepath.Base(temp), pgSocketTemp) {
		_ = os.RemoveAll(temp)
	}
	_ = os.RemoveAll(run)
}

// pgSocketFits says whether sockets in the folder have a name that the kernel takes, and that both the
// server's list of folders and a client's list of hosts take as one item.
func pgSocketFits(dir string) bool {
	return len(dir)+len(pgSocketName) <= pgSocketRoom && !strings.ContainsAny(dir, ", \t\n\"'\\")
}
