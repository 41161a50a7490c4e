#!/usr/bin/env bash
# Runs the fast checks before a commit: vet, formatting, and the tests of fast packages
# and of packages that differ from the branch "main" of origin. It starts no database,
# no broker, no browser and no node.
set -euo pipefail
cd "$(dirname "$0")/.."

base=$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD)
mapfile -t changed < <({ git diff --name-only --diff-filter=d "$base" -- '*.go'; git ls-files -o --exclude-standard -- '*.go'; } | sort -u)

fast="./domain/... ./proto/... ./router/ring ./eventstore/internal/... ./node/contract ./test/repo"
packages=() bench=false
for file in "${changed[@]}"; do
	package=./$(dirname "$file")
	case $package in
	./bench*) bench=true ;; # not in go.work
	./deploy/k8s/*) ;; # make check-k8s
	./eventstore/postgres* | ./relay/* | ./test/e2e | ./test/browser | ./test/stomp* | ./test/chaos* | */testdata*) ;; # make test PKG=$package
	*) packages+=("$package") ;;
	esac
done
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u | sed '/^$/d')

unformatted=$(go tool gofumpt -l . | grep -v '\.pb\.go$' || true)
[ -z "$unformatted" ] || { printf 'not formatted, run "make fmt":\n%s\n' "$unformatted"; exit 1; }
# shellcheck disable=SC2086
go vet ${packages[*]:-./...}
# shellcheck disable=SC2086
go test $fast ${packages[*]}
if $bench; then
	cd bench
	GOWORK=off go vet ./...
	GOWORK=off go test ./report
fi
