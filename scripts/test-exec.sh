#!/usr/bin/env bash
# For "go test -exec": runs a test binary, and then the fuzz targets of its package,
# without building it again. FUZZTIME is the number of inputs per target (default 5000x); 0
# skips fuzzing. It is a number, since a run with a time limit may report its own deadline
# as a failure.
set -euo pipefail

"$@"
inputs=${FUZZTIME:-5000x}
[ "$inputs" != 0 ] || exit 0
targets=$(cat ./*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p')
[ -n "$targets" ] || exit 0
corpus=$(go env GOCACHE)/fuzz/$(go list .)
for target in $targets; do
	echo "fuzz $target"
	"$1" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$inputs" -test.fuzzcachedir "$corpus"
done
