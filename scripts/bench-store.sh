#!/usr/bin/env bash
# Measures the store on PostgreSQL beside its rivals; see eventstore/postgres/bench.
# Arguments are handed on: --quick, --only REGEXP, --keys.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
go run ./eventstore/postgres/bench "$@"
