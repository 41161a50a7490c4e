#!/usr/bin/env bash
# Installs the STOMP clients of npm that test/stomp and test/browser play, and bundles
# their scenarios for a browser.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v npm >/dev/null || scripts/client-js.sh build # which installs Node
cd test/stomp/js
if ! diff -q package-lock.json node_modules/.installed-lock >/dev/null 2>&1; then
	npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	cp package-lock.json node_modules/.installed-lock
fi
node_modules/.bin/esbuild clients.js --bundle --format=esm --target=es2022 --log-level=warning --outfile=build/clients.js
