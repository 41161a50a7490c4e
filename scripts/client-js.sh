#!/usr/bin/env bash
# Builds and tests client/js and client/react, and checks that the built pages are current:
# the example, and the console.
#   client-js.sh build      only builds the clients
#   client-js.sh examples   rebuilds the pages
#   client-js.sh pack DIR   packs the packages to publish into DIR, with the version
#                           of the checked-out tag, like that of the binary, or VERSION
# It needs Node 20 or newer. If Node is missing, it installs Debian's package. Debian 12
# has version 18, which the tests can use with a flag.
set -euo pipefail
[ "${1:-}" != pack ] || out=$(realpath -m "${2:?usage: client-js.sh pack DIR}")
cd "$(dirname "$0")/.."

# Two runs in one clone would remove each other's files, so the second one waits.
if command -v flock >/dev/null; then
	mkdir -p .run
	exec 9>.run/client-js.lock
	flock 9
fi

major() { node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0; }

if [ "$(major)" -lt 18 ] || ! command -v npm >/dev/null; then
	if ! command -v apt-get >/dev/null; then
		echo "client/js needs Node 20 or newer with npm: install them" >&2
		exit 1
	fi
	scripts/install.sh nodejs npm
fi
if [ "$(major)" -lt 18 ]; then
	echo "client/js needs Node 20 or newer (18 for its tests), found $(node --version 2>/dev/null || echo none): install it" >&2
	exit 1
fi
# Node 18 needs a flag for the browser's global crypto.
[ "$(major)" -ge 20 ] || export NODE_OPTIONS="${NODE_OPTIONS:-} --experimental-global-webcrypto"

# Installs the dependencies of the current folder and builds it.
build() {
	if ! diff -q package-lock.json node_modules/.installed-lock >/dev/null 2>&1; then
		npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
		cp package-lock.json node_modules/.installed-lock
	fi
	npm run --silent build
	npm run --silent check
}
cd client/js
build
(cd ../react && build)
[ "${1:-}" = build ] && exit 0
if [ "${1:-}" = pack ]; then
	version=${VERSION:-$(git describe --tags --exact-match --match 'v*' 2>/dev/null || echo "v0.0.0-$(git rev-parse --short HEAD)")}
	stage=$(mktemp -d)
	trap 'rm -rf "$stage"' EXIT
	mkdir -p "$out"
	for package in js react; do
		mkdir "$stage/$package"
		(cd "../$package" && cp -r package.json README.md LICENSE dist "$stage/$package")
		(cd "$stage/$package" && npm pkg set version="${version#v}" && npm pkg delete devDependencies &&
			npm pack --ignore-scripts --pack-destination "$out")
	done
	exit
fi

# The built pages are committed, so the binary can be built with Go alone.
bundle() {
	node_modules/.bin/tsc -p ../../examples/auction
	node_modules/.bin/esbuild ../../examples/auction/auction.ts --bundle --minify --format=esm --target=es2022 --log-level=warning \
		--banner:js='// Built from auction.ts by scripts/client-js.sh examples; DO NOT EDIT.' --outfile="$1"
}
if [ "${1:-}" = examples ]; then
	bundle ../../examples/auction/auction.js
	(cd ../../web/console && build && rm -f dist/* && gzip -9nk build/* && mv build/*.gz dist)
	exit 0
fi
(cd ../../web/console && build && for file in build/*; do
	gunzip -c "dist/${file##*/}.gz" | cmp -s - "$file" ||
		{ echo "web/console/dist is stale, run 'scripts/client-js.sh examples'" >&2; exit 1; }
done)
bundle build/auction.js
cmp -s build/auction.js ../../examples/auction/auction.js ||
	{ echo "examples/auction/auction.js is stale, run 'scripts/client-js.sh examples'" >&2; exit 1; }
# Runs the tests of the current folder.
run() {
	npm run --silent test -- --test-reporter=dot --test-reporter-destination=stdout \
		--test-reporter=spec --test-reporter-destination=build/test.log build/test/*.test.js ||
		{ sed -n '/failing tests/,$p' build/test.log >&2; exit 1; }
}
run
(cd ../react && run)
