#!/usr/bin/env bash
# Prints the path of promtool. If this machine has none, it extracts promtool from
# Debian's package prometheus, without installing the package.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v promtool && exit 0
tool=.run/promtool
if [ ! -x "$tool" ]; then
	command -v apt-get >/dev/null || { echo "promtool is missing: install Prometheus" >&2; exit 1; }
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	echo "no promtool found: extracting it from Debian's package 'prometheus'" >&2
	download() { (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download prometheus >&2); }
	download 2>/dev/null || {
		$([ "$(id -u)" = 0 ] || echo sudo) apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
		download
	}
	(cd "$work" && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool)
	mkdir -p .run
	mv "$work/usr/bin/promtool" "$tool"
fi
echo "$PWD/$tool"
