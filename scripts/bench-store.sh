#!/usr/bin/env bash
# Compares the store on PostgreSQL with its rivals; see bench/store.
# Arguments: --quick, --only REGEXP, --keys.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
cd bench
GOWORK=off go run ./store "$@"
