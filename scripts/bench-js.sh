#!/usr/bin/env bash
# Compares client/js and client/go with other clients; see bench/js.
# EVENTS is the number of events per round (default 100000), ROUNDS the number of rounds
# (default 7).
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/client-js.sh build
cd bench/js
[ -d node_modules ] || npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
node bench.js
