package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	pgOldest = 15
	pgNewest = 18

	pgBinEnv = "REKEY_POSTGRES_BIN"
	// A program that prints its version takes milliseconds, on a machine under load up to seconds.
	pgToolTimeout = 10 * time.Second
)

// ErrNoPostgres says that no binaries were found and how to get them.
var ErrNoPostgres = errors.New("no PostgreSQL 15 to 18 found on this machine; install it:\n" +
	"  Debian, Ubuntu:       apt-get install postgresql\n" +
	"  Fedora, RHEL:         dnf install postgresql-server\n" +
	"  macOS:                brew install postgresql@17\n" +
	"  installed elsewhere:  set " + pgBinEnv + " to the folder of postgres and initdb\n" +
	"  a server of your own: set REKEY_DATABASE_URL")

// pgInstall is a folder with postgres and initdb.
type pgInstall struct {
	dir   string
	major int
}

// FindPostgres finds the folder that holds postgres and initdb, of a version from 15 to 18. A folder
// named by bin, else by the environment variable REKEY_POSTGRES_BIN, is the only one looked at. Otherwise
// the first that fits counts: PATH, the places of Debian's, the RPM and the source packages and
// Homebrew with the highest version first, then what pg_config says.
// With none, the error is ErrNoPostgres.
func FindPostgres(bin string) (dir string, err error) {
	found, err := findPostgres(bin, 0, pgPlaces("/"))
	return found.dir, err
}

// findPostgres prefers binaries of one major version, if it is not 0: those that made the cluster. So an
// upgrade of the machine that keeps the old binaries does not lock anyone out.
func findPostgres(bin string, prefer int, places []string) (pgInstall, error) {
	if named := cmp.Or(bin, os.Getenv(pgBinEnv)); named != "" {
		return pgNamedInstall(named)
	}
	var usable []pgInstall
	var unfit []string
	for _, dir := range places {
		install, err := pgInspect(dir)
		switch {
		case err != nil:
			continue
		case !install.fits():
			unfit = append(unfit, fmt.Sprintf("%s has version %d", dir, install.major))
		case prefer == 0 || install.major == prefer:
			return install, nil
		default:
			usable = append(usable, install)
		}
	}
	if len(usable) > 0 {
		return usable[0], nil
	}
	if len(unfit) > 0 {
		slices.Sort(unfit) // one folder may have been met on two ways
		return pgInstall{}, fmt.Errorf("%w\n(%s)", ErrNoPostgres, strings.Join(slices.Compact(unfit), ", "))
	}
	return pgInstall{}, ErrNoPostgres
}

// pgNamedInstall judges the folder a person named; its errors are about that folder and not
// ErrNoPostgres, since installing another would not help.
func pgNamedInstall(dir string) (pgInstall, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return pgInstall{}, fmt.Errorf("make path absolute: %w", err)
	}
	install, err := pgInspect(dir)
	if err != nil {
		return pgInstall{}, fmt.Errorf("use the named postgres folder (%s): %w", pgBinEnv, err)
	}
	if !install.fits() {
		return pgInstall{}, fmt.Errorf("use the named postgres folder (%s): %s holds PostgreSQL %d, needed is %d to %d",
			pgBinEnv, dir, install.major, pgOldest, pgNewest)
	}
	return install, nil
}

func (i pgInstall) fits() bool { return i.major >= pgOldest && i.major <= pgNewest }

// pgInspect asks the binaries in a folder for their version.
func pgInspect(dir string) (pgInstall, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return pgInstall{}, err
	}
	version, err := pgOutput(filepath.Join(dir, "postgres"), "-V")
	if err != nil {
		return pgInstall{}, err
	}
	// "postgres (PostgreSQL) 18.4 (Debian ...)", of a preview "postgres (PostgreSQL) 18beta1"
	_, number, _ := strings.Cut(version, ") ")
	digits := len(number) - len(strings.TrimLeft(number, "0123456789"))
	major, err := strconv.Atoi(number[:digits])
	if err != nil {
		return pgInstall{}, fmt.Errorf("read version of %s: unexpected answer %q", dir, version)
	}
	return pgInstall{dir: dir, major: major}, nil
}

// pgPlaces are the folders to look at, best first.
func pgPlaces(root string) []string {
	var places []string
	if path, err := exec.LookPath("postgres"); err == nil {
		// Usually a link; initdb lies beside its target.
		if target, err := filepath.EvalSymlinks(path); err == nil {
			places = append(places, filepath.Dir(target))
		}
		places = append(places, filepath.Dir(path))
	}
	for _, pattern := range []string{
		"usr/lib/postgresql/*/bin",
		"usr/pgsql-*/bin",
		"usr/local/pgsql/bin",
		"opt/homebrew/opt/postgresql@*/bin",
		"usr/local/opt/postgresql@*/bin",
		"home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	} {
		// An error can only come from a malformed pattern.
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		slices.SortFunc(found, func(a, b string) int { return cmp.Compare(pgPlaceVersion(b), pgPlaceVersion(a)) })
		places = append(places, found...)
	}
	if dir, err := pgOutput("pg_config", "--bindir"); err == nil {
		places = append(places, dir)
	}
	return places
}

// pgPlaceVersion is the number in a path such as /usr/lib/postgresql/17/bin; as text, 9 would come
// before 17.
func pgPlaceVersion(dir string) float64 {
	name := filepath.Base(filepath.Dir(dir))
	version, _ := strconv.ParseFloat(strings.TrimLeftFunc(name, func(r rune) bool { return r < '0' || r > '9' }), 64)
	return version
}

func pgOutput(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pgToolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = pgEnv()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s: %w", filepath.Base(name), err)
	}
	return strings.TrimSpace(string(out)), nil
}
