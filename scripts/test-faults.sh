#!/usr/bin/env bash
# Runs the long fault tests with new seeds: nodes are killed, drained and restored under
# load; PostgreSQL is killed, cut off, filled up and replaced by its standbys, also by those of
# a cluster that Patroni manages; then follow
# the cluster in containers, the fault rig of test/chaos, and guided fuzzing. The long form
# begins with a dry run of a release.
# COUNT is the number of repetitions (default 10); GANGLION_FAULTS=long selects the long
# form of tests. SHORT=1, for CI after make test, takes 10 minutes at most: it omits the tests
# that make test has just run.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
scripts/client-js.sh build
export GORACE=atexit_sleep_ms=0 # see scripts/test.sh
count=${COUNT:-10}
[ -z "${SHORT:-}" ] && export GANGLION_FAULTS=long || count=1
[ "$(id -u)" = 0 ] || echo "test-faults: not root: a limit on file sizes simulates full disks, and a full disk of the write-ahead log is NOT tested" >&2

if [ -z "${SHORT:-}" ]; then
	if [ -z "$(git status --porcelain)" ]; then
		scripts/release.sh --dry-run
	else
		echo "test-faults: the work tree has changes: a release is NOT tried" >&2
	fi
	go test -race -timeout 60m -count "$count" -run 'Killed|Frozen|Rolling|WentBack|AcceptedLoss|WithoutPush|ThreeNodes' ./test/e2e
	go test -race -timeout 60m -run 'Client(Go|JS)|ResumeOnAnotherGateway|LiveQuer|LiveQuestions|SlowReader|RebuildUnderLoad|AnotherRowType|RowsEqual|RowsAreRight|AnswersShow|DatabaseIsAway' ./test/e2e
	go test -race -timeout 60m -run 'ProcessManager|Consumers|MembersOverHTTP|WakeUps|AuctionsEnd|CopyWakes|BiddersAreTold|ReadSideWaits|RestoredLog' -parallel 2 ./test/e2e
	go test -race -timeout 30m -count 1 -run 'MailersOfTheDocsShare' ./test/conversation # 10 minutes without a mail server
	go test -race -timeout 30m -count 1 -run 'LosesNothing' ./relay/rabbitmq/e2e
	go test -race -timeout 30m -count 1 -run 'NoSegmentIsSent' ./engine/internal/group
	go test -race -timeout 30m -count 1 -run 'HugeCategory' ./gateway
	go test -race -timeout 30m -count 1 -v -run 'NewProduct|Recipes|TabStaysSmall' ./test/browser
	go test -race -timeout 60m -count "$count" -run 'Fault|Killed|Cut|Crash|Unknown|OlderCopy|StoppedServer|Locked|Store' ./eventstore/...
	go test -race -timeout 60m -count "$count" -run 'RandomFaults|Pipelined' ./router
	go test -race -timeout 30m -count 1 -tags hostile -run Hostile ./test/e2e
	GUIDED=1 scripts/fuzz.sh 200000x
else
	GANGLION_FAULTS=long go test -race -timeout 30m -count 1 -run RollingUpgrade ./test/e2e
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	# Services that the packages start do not disturb: each server has its own network.
	missing=()
	command -v patroni >/dev/null || missing+=(patroni)
	command -v etcd >/dev/null || missing+=(etcd-server)
	command -v bridge >/dev/null || missing+=(iproute2)
	[ ${#missing[@]} = 0 ] || scripts/install.sh "${missing[@]}"
	if unshare --net --pid --fork --mount-proc sh -c 'ip link add hub type bridge && ip link add port1 type veth peer name port2' >/dev/null 2>&1; then
		go test -race -timeout 40m -count 1 -v -tags patroni -run "$([ -n "${SHORT:-}" ] && echo Failovers || echo .)" ./test/patroni
	else
		echo "test-faults: network namespaces are not allowed here: failovers of Patroni are NOT tested" >&2
	fi
else
	echo "test-faults: not root on Debian: failovers of Patroni are NOT tested" >&2
fi
CGO_ENABLED=0 go test -count 1 -v -run 'RandomHistories|Growing' ./router/ring | grep -vE '^=== ' # runs thousands of histories; with the race detector it would run hundreds
MINUTES=$([ -n "${SHORT:-}" ] && echo 1 || echo 20) ARGS=$([ -n "${SHORT:-}" ] || echo -race) scripts/chaos.sh
test/compose/run.sh
