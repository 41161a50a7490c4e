#!/usr/bin/env bash
# The long fault tests, again and again with new seeds: nodes killed, drained
# and set back under load, PostgreSQL killed and cut off, and the cluster in
# containers. COUNT (default 10) is how often; SHORT=1 is what CI runs: each
# once more, without containers.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
count=${COUNT:-10}
[ -z "${SHORT:-}" ] || count=1

go test -race -timeout 60m -count "$count" -run 'Killed|Frozen|Rolling|WentBack|WithoutPush' ./test/e2e
go test -race -timeout 60m -count "$count" -run 'Fault|Terminat|Cut|Crash|Fight' ./eventstore/...
go test -race -timeout 60m -count "$count" -run 'Chaos' ./router/...
[ -n "${SHORT:-}" ] || test/compose/run.sh
