#!/usr/bin/env bash
# Finds a PostgreSQL for tests: DATABASE_URL, or server binaries of this machine, with
# which the tests start temporary clusters. If it finds neither, it installs Debian's
# package.
set -euo pipefail

[ -n "${DATABASE_URL:-}" ] && exit 0
for dir in "${PG_BIN:-/nonexistent}" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/pgsql/bin; do
	[ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && exit 0
done
command -v initdb >/dev/null && exit 0

if ! command -v apt-get >/dev/null; then
	echo "no PostgreSQL found: install its server, or set PG_BIN to the folder with initdb and postgres, or DATABASE_URL" >&2
	exit 1
fi
echo "no PostgreSQL found: installing Debian's package 'postgresql' for its programs, without a running server" >&2
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
# Without this setting the package starts a server.
$sudo mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
exec "$(dirname "$0")/install.sh" postgresql
