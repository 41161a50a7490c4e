#!/usr/bin/env bash
# Makes sure that tests have a pgbouncer: this machine's, else Debian's package,
# which this script then installs, and says so.
set -euo pipefail

{ command -v pgbouncer || [ -x /usr/sbin/pgbouncer ]; } >/dev/null && exit 0
if ! command -v apt-get >/dev/null; then
	echo "no pgbouncer found: install it" >&2
	exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
echo "no pgbouncer found: installing Debian's package \"pgbouncer\" (only its program is used)"
$sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends pgbouncer >/dev/null
