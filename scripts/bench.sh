#!/usr/bin/env bash
# Measures the whole system; see bench/e2e. BENCHTIME is the time per case (default 3s).
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
cd bench
GOWORK=off go test -run '^$' -bench . -benchtime "${BENCHTIME:-3s}" -timeout 20m ./e2e
