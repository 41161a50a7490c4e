#!/usr/bin/env bash
# Builds and tests client/js, and checks the example that is built with it;
# "build" alone builds, "examples" writes the built example anew, and "pack DIR"
# packs what is to be published into DIR, with the version of the tag that is
# checked out: tags are where all versions come from, the binary's too.
# Node 20 or newer is the machine's; where there is none, Debian's (12 has 18,
# which the tests can use with a flag) is installed.
set -euo pipefail
[ "${1:-}" != pack ] || out=$(realpath -m "${2:?say into which folder to pack}")
cd "$(dirname "$0")/.."

major() { node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0; }

if [ "$(major)" -lt 18 ] || ! command -v npm >/dev/null; then
	if ! command -v apt-get >/dev/null; then
		echo "client/js needs Node 20 or newer with npm: install them" >&2
		exit 1
	fi
	scripts/install.sh nodejs npm
fi
if [ "$(major)" -lt 18 ]; then
	echo "client/js needs Node 20 or newer (18 for its tests), here is $(node --version 2>/dev/null || echo none): install it" >&2
	exit 1
fi
# Node 18 has what browsers call crypto only behind a flag.
[ "$(major)" -ge 20 ] || export NODE_OPTIONS="${NODE_OPTIONS:-} --experimental-global-webcrypto"

cd client/js
if ! diff -q package-lock.json node_modules/.installed-lock >/dev/null 2>&1; then
	npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	cp package-lock.json node_modules/.installed-lock
fi
npm run --silent build
npm run --silent check
[ "${1:-}" = build ] && exit 0
if [ "${1:-}" = pack ]; then
	version=$(git describe --tags --exact-match --match 'v*' 2>/dev/null || echo "v0.0.0-$(git rev-parse --short HEAD)")
	stage=$(mktemp -d)
	trap 'rm -rf "$stage"' EXIT
	cp -r package.json README.md LICENSE dist "$stage"
	cd "$stage"
	npm pkg set version="${version#v}"
	mkdir -p "$out"
	npm pack --ignore-scripts --pack-destination "$out"
	exit
fi

# The built example is committed, so that Go alone builds the binary.
bundle() {
	node_modules/.bin/tsc -p ../../examples/auction
	node_modules/.bin/esbuild ../../examples/auction/auction.ts --bundle --minify --format=esm --target=es2022 --log-level=warning \
		--banner:js='// Built from auction.ts by scripts/client-js.sh examples; DO NOT EDIT.' --outfile="$1"
}
if [ "${1:-}" = examples ]; then
	bundle ../../examples/auction/auction.js
	exit 0
fi
bundle build/auction.js
cmp -s build/auction.js ../../examples/auction/auction.js ||
	{ echo "examples/auction/auction.js is not what auction.ts says: run 'scripts/client-js.sh examples'" >&2; exit 1; }
npm run --silent test -- --test-reporter=dot --test-reporter-destination=stdout \
	--test-reporter=spec --test-reporter-destination=build/test.log build/test/*.test.js ||
	{ sed -n '/failing tests/,$p' build/test.log >&2; exit 1; }
