#!/usr/bin/env bash
# Runs the fault rig; see test/chaos. SEED selects the faults (by default it is random,
# and printed), MINUTES is the length of the run (default 2), ARGS are further arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
CGO_ENABLED=0 go build -tags grpcnotrace,nopgxregisterdefaulttypes -o "$bin/chaos" ./test/chaos # like "make lint"
"$bin/chaos" -seed "${SEED:-0}" -minutes "${MINUTES:-2}" ${ARGS:-}
