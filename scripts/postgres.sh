#!/usr/bin/env bash
# Makes sure that tests have a PostgreSQL: DATABASE_URL, else server binaries
# on this machine (the tests start a throw-away cluster from them), else
# Debian's package, which this script then installs, and says so.
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
echo "no PostgreSQL found: of Debian's package 'postgresql' only the programs are used, its own server is not"
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
# Without this the package would start a server of its own.
$sudo mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
exec "$(dirname "$0")/install.sh" postgresql
