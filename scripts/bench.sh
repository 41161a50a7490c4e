#!/usr/bin/env bash
# Measures the whole system; see test/bench. BENCHTIME (default 3s) per case.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
go test -run '^$' -bench . -benchtime "${BENCHTIME:-3s}" -timeout 20m ./test/bench
