#!/usr/bin/env bash
# Makes docs/console.png: the console's overview of three nodes, under a small load of one
# minute. It needs Chromium (scripts/install.sh chromium-headless-shell).
set -euo pipefail
cd "$(dirname "$0")/.."

make build
dir=$(mktemp -d)
bin/ganglion dev --nodes 3 --listen 127.0.0.1:8180 --data "$dir/data" >"$dir/nodes.log" 2>&1 &
nodes=$!
trap 'kill $nodes; wait $nodes; rm -rf "$dir"' EXIT
until bin/ganglion healthcheck --listen 127.0.0.1:8182 2>/dev/null; do sleep .2; done

# The browser follows the cluster from the beginning, and takes its picture at the end.
go -C test/browser build -o "$dir/picture" ./picture
"$dir/picture" http://127.0.0.1:8180/_ganglion/ 75 docs/console.png &
picture=$!
bin/ganglion bench --url http://127.0.0.1:8180 --url http://127.0.0.1:8181 --url http://127.0.0.1:8182 \
	--rate 200 --connections 60 --subscribers 120 --duration 85s >"$dir/bench.log" 2>&1 || { cat "$dir/bench.log" >&2; exit 1; }
wait $picture
