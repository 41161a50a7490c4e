#!/usr/bin/env bash
# Everything that can be said of the code without running it.
set -euo pipefail
cd "$(dirname "$0")/.."

modules=". bench client/go domain test/browser tools"
step() { printf 'lint: %s\n' "$*"; }

step "go vet, staticcheck"
go vet work
go tool staticcheck work # all modules together: their dependencies are looked at once
(cd router && go vet -tags ganglionnext ./...) # what stands for the next version in tests of upgrades

step "gofumpt"
unformatted=$(go tool gofumpt -l $(git ls-files -co --exclude-standard '*.go' | grep -v '\.pb\.go$'))
[ -z "$unformatted" ] || { printf 'not formatted, run "make fmt":\n%s\n' "$unformatted"; exit 1; }

step "words"
! git grep -nIF -e $'\xc2\xab' -e $'\xc2\xbb' || { echo 'write "plain quotes", or a code span: see CONTRIBUTING.md'; exit 1; }

step "import directions"
go test -count=1 -run '^TestImportDirections$' ./test/repo

step "generated code is current"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp proto/peer/peer.proto "$tmp/"
go run ./tools/protogen "$tmp/peer.proto"
for f in peer.pb.go peer_grpc.pb.go; do
	diff -q "$tmp/$f" "proto/peer/$f" >/dev/null || { echo "proto/peer/$f is stale, run 'make generate'"; exit 1; }
done

step "the image's binary and its size"
CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -ldflags="-s -w -funcalign=16" -o "$tmp/ganglion" ./cmd/ganglion
bytes=$(wc -c <"$tmp/ganglion")
[ "$bytes" -lt 44700000 ] || { # the image may have 45 MB, and has the certificates of authorities as well
	echo "it has $bytes bytes, of 44700000 at most. If it grew suddenly, something finds methods by names that the linker can't know, and every method is kept:"
	echo "go build -tags grpcnotrace -ldflags=-dumpdep ./cmd/ganglion 2>&1 | grep '<ReflectMethod>'"
	exit 1
}
printf '%s\n' '{"ganglion":"log","form":1,"log":"6f0c1c1e-5a4b-4a52-9d0c-1f5a2b3c4d5e","after":0}' '{"end":0,"commits":0}' | "$tmp/ganglion" import --store "$tmp/log" - >/dev/null ||
	{ echo "it lacks the embedded store, which 'docker run … dev' needs"; exit 1; }

step "alert rules"
promtool=$(scripts/promtool.sh)
"$promtool" check rules deploy/prometheus/alerts.yml >/dev/null
"$promtool" test rules deploy/prometheus/alerts_test.yml deploy/prometheus/drills_test.yml

step "the systemd unit"
command -v systemd-analyze >/dev/null || scripts/install.sh systemd
sed "s#/usr/bin/ganglion#$tmp/ganglion#" deploy/systemd/ganglion.service >"$tmp/ganglion.service"
systemd-analyze verify "$tmp/ganglion.service"

step "documents for clients, and the client package, by their own validators"
scripts/validators.sh

step "each module by itself"
for m in $modules; do
	(cd "$m" && GOWORK=off go vet ./... && GOWORK=off go mod tidy -diff)
done
