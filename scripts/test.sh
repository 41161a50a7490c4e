#!/usr/bin/env bash
# Runs every test with the race detector, against a real PostgreSQL.
# FUZZTIME is the number of inputs per fuzz target (default 5000x); 0 skips fuzzing.
# PKG selects one package of any module, and RUN selects tests, as "go test -run" does.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
command -v cc >/dev/null || { echo "the race detector needs a C compiler: apt-get install gcc libc6-dev" >&2; exit 1; }
# By default the race detector sleeps for 1 s before a process exits with 0, since
# goroutines may still run. The tests check that none does, so 50 packages need not wait.
export GORACE=atexit_sleep_ms=0

if [ -n "${PKG:-}" ]; then
	packages=.
	[ "${PKG%/...}" = "$PKG" ] || packages=./...
	cd "${PKG%/...}"
	go list . >/dev/null 2>&1 || export GOWORK=off # a module outside of go.work, such as bench
	exec go test -race -timeout 40m -count=1 ${RUN:+-run "$RUN"} "$packages"
fi

scripts/client-js.sh # also builds the client for the end-to-end tests
scripts/stomp-js.sh
PATH=$PATH:/usr/sbin
missing=()
command -v pgbouncer >/dev/null || missing+=(pgbouncer) # for the recipes in docs/run.md
[ -d /usr/lib/python3/dist-packages/websockets ] || ! command -v apt-get >/dev/null || missing+=(python3-websockets) # for the mailer in docs/consumers.md
compgen -G '/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server' >/dev/null || ! command -v apt-get >/dev/null || missing+=(rabbitmq-server) # for relay/rabbitmq and test/stomp
[ -d /usr/lib/python3/dist-packages/pika ] || ! command -v apt-get >/dev/null || missing+=(python3-pika) # for the consumer in docs/relays.md
command -v nginx >/dev/null || missing+=(nginx-light)   # likewise
command -v chromium-headless-shell >/dev/null || { ! command -v apt-get && command -v chromium; } >/dev/null ||
	missing+=(chromium-headless-shell) # for test/browser; on systems without apt-get, "chromium" is enough
[ ${#missing[@]} = 0 ] || scripts/install.sh "${missing[@]}"
# Vet is off, since "make lint" runs all of it. It also runs test/repo, as does
# "make check".
mkdir -p .run
race="go test -race -vet=off -timeout 40m"
# Four packages run nodes in processes. Linking takes 10 s, so it is done once.
export GANGLION_RACE_BINARY=$PWD/.run/race/ganglion
go build -race -ldflags="-s -w" -o "$GANGLION_RACE_BINARY" ./cmd/ganglion
each="$PWD/scripts/test-exec.sh" # runs the fuzz targets too
# These packages run after the others and one at a time: they give servers, processes and
# browsers deadlines, which a machine busy with another package would miss. The tests of
# the store wait more than they compute, so four of them run in parallel.
alone='/(test/(browser|chaos|conversation|e2e|stomp)|relay/[a-z0-9/]+|eventstore/(postgres|sqlite)|engine(/[a-z/]+)?|router(/[a-z]+)?|gateway|node|client/go)$'
# shellcheck disable=SC2046
$race -exec "$each" $(go list work | grep -vE "$alone|/test/repo$")
(cd bench && GOWORK=off $race ./report)
$race -parallel 4 -exec "$each" ./eventstore/postgres
# shellcheck disable=SC2046
$race -exec "flock $PWD/.run/test.lock $each" $(go list work | grep -E "$alone" | grep -vE '/(eventstore/postgres|test/e2e)$')
# Two clusters of processes at a time are too much for two cores: links fall silent.
$race -parallel 1 ./test/e2e
