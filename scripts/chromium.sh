#!/usr/bin/env bash
# Makes sure that there is a Chromium for the tests in test/browser: Debian's,
# without windows (chromium-headless-shell). Where there are no packages,
# «chromium» will do.
set -euo pipefail

command -v chromium-headless-shell >/dev/null && exit 0
if ! command -v apt-get >/dev/null; then
	command -v chromium >/dev/null && exit 0
	echo "the browser tests need Chromium: install it, so that «chromium» or «chromium-headless-shell» starts it" >&2
	exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
echo "no Chromium without windows found: installing Debian's package «chromium-headless-shell»"
$sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends chromium-headless-shell >/dev/null
command -v chromium-headless-shell >/dev/null || { echo "the package was installed, and yet there is no «chromium-headless-shell»" >&2; exit 1; }
