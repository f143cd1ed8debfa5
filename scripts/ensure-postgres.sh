#!/bin/sh
# Makes sure that this machine has PostgreSQL 15 to 18, for `make dev` and `make test`: with root or sudo
# without a password it installs the system's package, otherwise it says what to do. Nothing to do when a
# server of your own is named by REKEY_DATABASE_URL.
# Looks in the same places as FindPostgres in embedded/postgres_find.go.
set -eu

say() { printf 'ensure-postgres: %s\n' "$*" >&2; }
announce() { say "no PostgreSQL 15 to 18 found, installing it with $1"; }

# suits DIR: it holds postgres and initdb of a version that rekey works with
suits() {
	[ -x "$1/postgres" ] && [ -x "$1/initdb" ] || return 1
	version=$("$1/postgres" -V 2>/dev/null) || return 1
	version=${version#*") "}
	case ${version%%[!0-9]*} in
	15 | 16 | 17 | 18) return 0 ;;
	*) return 1 ;;
	esac
}

found() {
	if program=$(command -v postgres); then
		target=$(readlink -f "$program" 2>/dev/null || printf '%s' "$program")
		if suits "${target%/*}" || suits "${program%/*}"; then return 0; fi
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
		/opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
		/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin; do
		if suits "$dir"; then return 0; fi
	done
	dir=$(pg_config --bindir 2>/dev/null) && suits "$dir"
}

# as_root COMMAND...: sudo never asks here, since nobody may be there to answer
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_be_root() {
	[ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# Debian's package makes a cluster of its own and starts it as a service, unless told not to. It is told only
# for the time of this installation.
install_apt() {
	conf=/etc/postgresql-common/createcluster.d
	as_root mkdir -p "$conf"
	trap 'as_root rm -f "$conf/rekey.conf"' EXIT
	trap 'exit 1' HUP INT TERM
	printf 'create_main_cluster = false\n' | as_root tee "$conf/rekey.conf" >/dev/null
	as_root apt-get update -q || say "apt-get update failed, trying with the lists that are here"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y -o DPkg::Lock::Timeout=300 \
		--no-install-recommends postgresql
}

install_any() {
	if command -v apt-get >/dev/null; then
		may_be_root && announce apt-get && install_apt
	elif command -v dnf >/dev/null; then
		may_be_root && announce dnf && as_root dnf install -y postgresql-server
	elif command -v brew >/dev/null; then
		[ "$(id -u)" != 0 ] && announce brew && brew install postgresql@17
	else
		return 1
	fi
}

if [ -n "${REKEY_DATABASE_URL:-}" ]; then exit 0; fi
if [ -n "${REKEY_POSTGRES_BIN:-}" ]; then
	if suits "$REKEY_POSTGRES_BIN"; then exit 0; fi
	say "REKEY_POSTGRES_BIN=$REKEY_POSTGRES_BIN holds no postgres and initdb of PostgreSQL 15 to 18"
	exit 1
fi
if found; then exit 0; fi
if install_any && found; then exit 0; fi
say 'PostgreSQL 15 to 18 is needed. It could not be installed, or the system has another version. Install it:
  Debian, Ubuntu:       apt-get install postgresql
  Fedora, RHEL:         dnf install postgresql-server
  macOS:                brew install postgresql@17
  installed elsewhere:  set REKEY_POSTGRES_BIN to the folder of postgres and initdb
  a server of your own: set REKEY_DATABASE_URL'
exit 1
