#!/usr/bin/env bash
# Checks the published documents and the packed client/js with the usual validators and
# code generators, which tools/validators pins. These have 390 packages, so they run only
# if a file has changed since tools/validators/passed.sha256, the checksums of the files
# that passed: commit it with the files. ALWAYS=1 runs them anyway.
set -euo pipefail
cd "$(dirname "$0")/.."

checked() {
	sha256sum proto/*.yaml domain/api/* client/js/package.json client/js/package-lock.json client/js/tsconfig.json client/js/src/* \
		tools/validators/package-lock.json tools/validators/validate.mjs
}
before=$(checked)
if [ -z "${ALWAYS:-}" ] && [ "$before" = "$(cat tools/validators/passed.sha256)" ]; then
	echo "validate: no file has changed since the last run"
	exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/client-js.sh pack "$work" >/dev/null # also installs Node if needed
(
	cd tools/validators
	if ! diff -q package-lock.json node_modules/.installed-lock >/dev/null 2>&1; then
		npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
		cp package-lock.json node_modules/.installed-lock
	fi
	node validate.mjs "$work"/ganglion-es-client-*.tgz
)
echo "$before" >tools/validators/passed.sha256
