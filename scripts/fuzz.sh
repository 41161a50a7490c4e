#!/usr/bin/env bash
# Runs every fuzz target of the workspace: scripts/fuzz.sh [5000x]. A count, not a time:
# a fuzz run that ends by time may call its own deadline a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-5000x}
git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz' | while read -r file; do
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
		echo "fuzz $(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")" </dev/null | grep -vE '^(fuzz: elapsed|PASS|ok )' || [ "${PIPESTATUS[0]}" = 0 ]
	done
done
