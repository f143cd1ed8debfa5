#!/usr/bin/env bash
# Runs every fuzz target, one after the other, for FUZZ_SECONDS each (60 by default). It stops at the first finding, which
# go test then keeps under testdata/fuzz: there it is a test like any other.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}

# path:Target, of all tests there are
targets=$(grep -roE --include='*_test.go' --exclude-dir=node_modules '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func /:/' | sort)
for target in $targets; do
	folder=$(dirname "${target%%:*}")
	name=${target##*:}
	printf '\n== %s %s, %s s\n' "$folder" "$name" "$seconds"
	out=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "${seconds}s" -fuzzminimizetime 10s "$folder" 2>&1) && failed= || failed=1
	printf '%s\n' "$out" | tail -n 40
	# The tool itself fails now and then when the time is up, without an input that fails: that is no finding.
	if [ -n "$failed" ] && ! grep -q 'context deadline exceeded' <<<"$out" || grep -q 'Failing input written' <<<"$out"; then
		exit 1
	fi
done
