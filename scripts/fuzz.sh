#!/usr/bin/env bash
# Runs every fuzz target of the workspace for a while: scripts/fuzz.sh [3s]
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-3s}
git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz' | while read -r file; do
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
		echo "fuzz $(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")" </dev/null | grep -vE '^(fuzz: elapsed|PASS|ok )' || [ "${PIPESTATUS[0]}" = 0 ]
	done
done
