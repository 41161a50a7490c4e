#!/usr/bin/env bash
# Compares consumer groups with rivals; see bench/groups.
# Arguments: --quick, --events N, --rounds N, --only REGEXP, --cases REGEXP.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
compgen -G '/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server' >/dev/null || scripts/install.sh rabbitmq-server
cd bench
GOWORK=off go run ./groups "$@"
