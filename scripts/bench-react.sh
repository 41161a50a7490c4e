#!/usr/bin/env bash
# Compares process managers and wake-ups on PostgreSQL with rivals; see bench/react.
# Arguments: --quick, --rounds N, --wakes N, --commands N, --only REGEXP.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
cd bench
GOWORK=off go run ./react "$@"
