#!/usr/bin/env bash
# Runs every fuzz target of the workspace with a number of inputs: scripts/fuzz.sh [5000x].
# It builds as "make test" does, with the race detector. GUIDED=1 instruments the binaries
# instead, so that coverage guides the choice of inputs. That compiles all dependencies
# again (200 s of CPU time with a cold cache), so it pays for long runs only. The bound is
# a number of inputs, since a run with a time limit may report its own deadline as a
# failure.
set -euo pipefail
cd "$(dirname "$0")/.."

inputs=${1:-5000x}
build=-race
[ -z "${GUIDED:-}" ] || build=-fuzz=.
export GORACE=atexit_sleep_ms=0 # without it, workers with the race detector sleep for 1 s before they exit
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
corpus=$(go env GOCACHE)/fuzz
for package in $(git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u); do
	go test "$build" -c -o "$dir/fuzz.test" "./$package"
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$package"/*_test.go); do
		echo "fuzz $package $target"
		(cd "$package" && "$dir/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$inputs" -test.fuzzcachedir "$corpus/$package") >"$dir/log" 2>&1 ||
			{ cat "$dir/log"; exit 1; }
	done
done
