package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// pgAccount is whom the children run as.
type pgAccount struct {
	drop     bool // we are root, which Postgres refuses to run as
	uid, gid uint32
}

// pgChooseAccount is our own account unless we are root. Then an existing cluster's owner comes first, since
// nobody else may open it: it may have been made by a person without root, or before the
// machine got its user "postgres".
func pgChooseAccount(data string) (pgAccount, error) {
	if os.Geteuid() != 0 {
		return pgAccount{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	info, err := os.Stat(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pgAccount{}, fmt.Errorf("look at cluster: %w", err)
	}
	if err == nil {
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 0 {
			return pgAccount{drop: true, uid: owner.Uid, gid: owner.Gid}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		if account, ok := pgLookupAccount(name); ok {
			return account, nil
		}
	}
	return pgAccount{drop: true, uid: 65534, gid: 65534}, nil
}

func pgLookupAccount(name string) (pgAccount, bool) {
	found, err := user.Lookup(name)
	if err != nil {
		return pgAccount{}, false
	}
	uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
	if uidErr != nil || gidErr != nil || uid == 0 {
		return pgAccount{}, false
	}
	return pgAccount{drop: true, uid: uint32(uid), gid: uint32(gid)}, true
}

// credential is what to start a child with; nil means as ourselves.
func (a pgAccount) credential() *syscall.Credential {
	if !a.drop {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

func (a pgAccount) String() string {
	if found, err := user.LookupId(strconv.FormatUint(uint64(a.uid), 10)); err == nil {
		return found.Username
	}
	return "with uid " + strconv.FormatUint(uint64(a.uid), 10)
}

// own hands a file or folder we made to the account.
func (a pgAccount) own(path string) error {
	if !a.drop {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// ownTree hands a whole cluster over. It was copied or restored by root, else its owner would be
// the account.
func (a pgAccount) ownTree(root string) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return a.own(path)
	})
}

// checkReach makes sure that the account can run the binaries and work below dir, of which the last
// parts need not exist yet. Folders that are closed to it are named, never opened: they are not ours.
func (a pgAccount) checkReach(ctx context.Context, bin, dir string) error {
	existing := dir
	for !pgExists(existing) {
		existing = filepath.Dir(existing)
	}
	if a.runIn(ctx, bin, existing) == nil {
		return nil
	}
	if err := a.runIn(ctx, bin, "/"); err != nil {
		return fmt.Errorf("run %s/postgres as user %s: %w; set %s to binaries that this user may run",
			bin, a, err, pgBinEnv)
	}
	for _, parent := range pgParents(existing) {
		if err := a.runIn(ctx, bin, parent); err != nil {
			return fmt.Errorf("use folder %s: user %s, as whom the Postgres server runs, cannot enter %s (%w); "+
				"set REKEY_DATA_DIR to a folder which that user can reach, for example below /var/lib, "+
				"or allow it with: chmod o+x %s", dir, a, parent, err, parent)
		}
	}
	return nil
}

// runIn runs a child as the account with the folder as its working directory. To ask the kernel is the
// only answer that is right for modes, access lists and restricted containers alike.
func (a pgAccount) runIn(ctx context.Context, bin, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, pgToolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "-V")
	cmd.Dir = dir
	cmd.Env = pgEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential()}
	if err := cmd.Run(); err != nil {
		// The path in a *PathError is the program's, also when it was the folder that failed.
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			return errno
		}
		return err
	}
	return nil
}

// pgParents are the folders from the root down to dir.
func pgParents(dir string) []string {
	if parent := filepath.Dir(dir); parent != dir {
		return append(pgParents(parent), dir)
	}
	return []string{dir}
}

func pgExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}
