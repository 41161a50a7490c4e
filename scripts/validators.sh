#!/usr/bin/env bash
# Checks the documents for clients and the packed client/js with the validators
# and generators of their own ecosystems, pinned in tools/validators.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/client-js.sh pack "$work" >/dev/null # also finds or installs Node
cd tools/validators
if ! diff -q package-lock.json node_modules/.installed-lock >/dev/null 2>&1; then
	npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	cp package-lock.json node_modules/.installed-lock
fi
node validate.mjs "$work"/*.tgz
