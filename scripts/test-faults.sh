#!/usr/bin/env bash
# The long fault tests, again and again with new seeds: nodes killed, drained
# and set back under load, PostgreSQL killed, cut off, filled up and replaced
# by its standbys, the cluster in containers, and the fault rig of test/chaos.
# COUNT (default 10) is how often; GANGLION_FAULTS=long is what makes the store's
# tests long. SHORT=1 is what CI runs after make test, in seven minutes: only what
# make test has not just run, or runs with a new seed each time.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
scripts/client-js.sh build
count=${COUNT:-10}
[ -z "${SHORT:-}" ] && export GANGLION_FAULTS=long || count=1
[ "$(id -u)" = 0 ] || echo "test-faults: not root: full disks are replaced by a limit on the size of files, and the full disk of the write-ahead log is NOT tested" >&2

if [ -z "${SHORT:-}" ]; then
	go test -race -timeout 60m -count "$count" -run 'Killed|Frozen|Rolling|WentBack|AcceptedLoss|WithoutPush' ./test/e2e
	go test -race -timeout 60m -run 'Client|ResumeOnAnotherGateway' ./test/e2e
	go test -race -timeout 30m -count 1 -run 'HugeCategory' ./gateway
	go test -race -timeout 60m -count "$count" -run 'Fault|Killed|Cut|Crash|Unknown|SetBack|Unreachable|Locked|Store' ./eventstore/...
	go test -race -timeout 30m -count 1 -tags hostile -run HostileClients ./test/e2e
else
	GANGLION_FAULTS=long go test -race -timeout 30m -count 1 -run RollingUpgrade ./test/e2e
fi
go test -race -timeout 60m -count "$count" -run 'RandomFaults|Pipelined' ./router/...
go test -count 1 -v -run 'RandomHistories|Growing' ./router/ring | grep -vE '^=== ' # thousands; the detector would make it hundreds
MINUTES=$([ -n "${SHORT:-}" ] && echo 2 || echo 20) ARGS=-race scripts/chaos.sh
test/compose/run.sh
