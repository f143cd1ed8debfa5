#!/bin/sh
# Makes sure that this machine has nginx with the module auth_request. Only tests use it: a real gateway asks rekey about
# each request, with the configuration that docs/gateways.md shows.
set -eu

have() {
	command -v nginx >/dev/null && nginx -V 2>&1 | grep -q http_auth_request_module
}

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

have && exit 0
if command -v apt-get >/dev/null; then
	as_root apt-get update -q || true
	# The package would start a server on port 80; nobody here wants one.
	as_root mkdir -p /etc/nginx/sites-enabled
	as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends nginx-light
elif command -v dnf >/dev/null; then
	as_root dnf install -q -y nginx
elif command -v brew >/dev/null; then
	brew install nginx
fi
have && exit 0
echo "ensure-nginx: install nginx with http_auth_request_module: apt-get install nginx-light, dnf install nginx, or brew install nginx" >&2
exit 1
