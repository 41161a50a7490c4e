#!/usr/bin/env bash
# Compares the gateway with its rivals; see bench/gateway.
# Arguments: --quick, --only REGEXP, --storm.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
CGO_ENABLED=0 go build -trimpath -o "$dir/ganglion" ./cmd/ganglion
(cd bench && GOWORK=off CGO_ENABLED=0 go build -trimpath -o "$dir/bench-gateway" ./gateway)
"$dir/bench-gateway" -binary "$dir/ganglion" "$@"
