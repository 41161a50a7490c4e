#!/usr/bin/env bash
# Everything, with the race detector, against a real PostgreSQL.
# FUZZTIME (default 5000x) is how often each fuzz target runs; 0 leaves them out.
# PKG, and RUN as for "go test -run", are one package, and some of its tests.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/postgres.sh
command -v cc >/dev/null || { echo "the race detector needs a C compiler: apt-get install gcc libc6-dev" >&2; exit 1; }

if [ -n "${PKG:-}" ]; then
	# shellcheck disable=SC2086
	exec go test -race -timeout 40m -count=1 ${RUN:+-run "$RUN"} $PKG
fi

scripts/client-js.sh # also builds what the end-to-end tests run
PATH=$PATH:/usr/sbin
missing=()
command -v pgbouncer >/dev/null || missing+=(pgbouncer)  # for these recipes in docs/operations.md
command -v nginx >/dev/null || missing+=(nginx-light)    # likewise
command -v chromium-headless-shell >/dev/null || { ! command -v apt-get && command -v chromium; } >/dev/null ||
	missing+=(chromium-headless-shell) # for test/browser; where there are no packages, "chromium" will do
[ ${#missing[@]} = 0 ] || scripts/install.sh "${missing[@]}"
# Packages are built together and tested one at a time: the fault tests wait for
# real servers and processes with short deadlines, and beside others they would
# find the machine too busy.
mkdir -p .run
alone="flock $PWD/.run/test.lock"
go test -race -timeout 40m -exec "$alone" ./eventstore/...
# shellcheck disable=SC2046
go test -race -timeout 40m -exec "$alone" $(go list work | grep -v /eventstore)
[ "${FUZZTIME:-5000x}" = 0 ] || scripts/fuzz.sh "${FUZZTIME:-5000x}"
