#!/usr/bin/env bash
# Measures the gateway beside its rivals; see bench/gateway.
# Arguments are handed on: --quick, --only REGEXP, --storm.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
CGO_ENABLED=0 go build -trimpath -o "$dir/ganglion" ./cmd/ganglion
CGO_ENABLED=0 go build -trimpath -o "$dir/bench-gateway" ./bench/gateway
"$dir/bench-gateway" -binary "$dir/ganglion" "$@"
