#!/bin/sh
# Makes sure that this machine has Node.js 18 or later and npm. Only tests use them: independent programs written in
# JavaScript judge our signatures, our NATS streams and our OpenAPI documents.
set -eu

have() {
	command -v npm >/dev/null && [ "$(node -p 'process.versions.node.split(".")[0] >= 18' 2>/dev/null)" = true ]
}

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

have && exit 0
if command -v apt-get >/dev/null; then
	as_root apt-get update -q || true
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends nodejs npm
elif command -v dnf >/dev/null; then
	as_root dnf install -q -y nodejs npm
elif command -v brew >/dev/null; then
	brew install node
fi
have && exit 0
echo "ensure-node: install Node.js 18 or later with npm: apt-get install nodejs npm, dnf install nodejs npm, or brew install node" >&2
exit 1
