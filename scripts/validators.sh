#!/usr/bin/env bash
# Checks the documents for clients and the packed client/js with the validators
# and generators of their own ecosystems, pinned in tools/validators. They have
# 390 packages, so what they passed is remembered by its checksums, and they run
# when something of it has changed: commit tools/validators/passed.sha256 with it.
# ALWAYS=1 runs them anyway.
set -euo pipefail
cd "$(dirname "$0")/.."

checked() {
	sha256sum proto/*.yaml domain/api/* client/js/package.json client/js/package-lock.json client/js/tsconfig.json client/js/src/* \
		tools/validators/package-lock.json tools/validators/validate.mjs
}
before=$(checked)
if [ -z "${ALWAYS:-}" ] && [ "$before" = "$(cat tools/validators/passed.sha256)" ]; then
	echo "validate: nothing has changed since it passed"
	exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/client-js.sh pack "$work" >/dev/null # also finds or installs Node
(
	cd tools/validators
	if ! diff -q package-lock.json node_modules/.installed-lock >/dev/null 2>&1; then
		npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
		cp package-lock.json node_modules/.installed-lock
	fi
	node validate.mjs "$work"/*.tgz
)
echo "$before" >tools/validators/passed.sha256
