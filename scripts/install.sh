#!/usr/bin/env bash
# Installs Debian packages: install.sh PACKAGE...
# It waits for other installations, and completes an interrupted one.
set -euo pipefail

command -v apt-get >/dev/null || { echo "missing: $*: install the packages of your system" >&2; exit 1; }
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing Debian packages: $*" >&2
$sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
install() {
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >/dev/null
}
install "$@" || {
	$sudo env DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --configure -a >&2
	install "$@"
}
