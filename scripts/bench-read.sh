#!/usr/bin/env bash
# Compares the read side on PostgreSQL with its rivals; see bench/read.
# Arguments: --quick, --events N, --rounds N, --only REGEXP, --cases REGEXP.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
cd bench/read/emmett
[ -d node_modules ] || npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
cd ../..
GOWORK=off go run ./read --emmett "$PWD/read/emmett" "$@"
