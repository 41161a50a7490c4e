#!/usr/bin/env bash
# The fault rig; see test/chaos. SEED (drawn and printed if not given) says
# which faults, MINUTES (default 2) for how long; ARGS are further arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/chaos" ./test/chaos
"$bin/chaos" -seed "${SEED:-0}" -minutes "${MINUTES:-2}" ${ARGS:-}
