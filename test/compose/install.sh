#!/usr/bin/env bash
# Installs Debian packages, and says so: install.sh PACKAGE...
set -euo pipefail

command -v apt-get >/dev/null || { echo "missing: $* (install what your system calls them)" >&2; exit 1; }
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing from Debian: $*"
$sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >/dev/null
