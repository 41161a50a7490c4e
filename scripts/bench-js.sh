#!/usr/bin/env bash
# Measures client/js beside other clients; see client/js/bench. EVENTS (default
# 100000) in each of ROUNDS (default 7).
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/client-js.sh build
cd client/js/bench
[ -d node_modules ] || npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
node bench.js
