#!/usr/bin/env bash
# Runs every fuzz target of the workspace with a number of inputs: scripts/fuzz.sh [5000x].
# It builds as "make test" does, with the race detector. GUIDED=1 instruments the binaries
# instead, so that coverage guides the choice of inputs. That compiles all dependencies
# again (200 s of CPU time with a cold cache), so it pays for long runs only.
set -euo pipefail
cd "$(dirname "$0")/.."

export FUZZTIME=${1:-5000x}
export GORACE=atexit_sleep_ms=0 # without it, workers with the race detector sleep for 1 s before they exit
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for package in $(git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u); do
	echo "fuzz $package"
	go test "$([ -z "${GUIDED:-}" ] && echo -race || echo -fuzz=.)" -ldflags="-s -w" -c -o "$dir/fuzz.test" "./$package"
	(cd "$package" && "$OLDPWD/scripts/test-exec.sh" "$dir/fuzz.test" -test.run '^$') >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
done
