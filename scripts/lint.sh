#!/usr/bin/env bash
# Checks everything that can be checked without running the code.
set -euo pipefail
cd "$(dirname "$0")/.."

# These are the settings of the released binary, so all steps share one compilation of
# the dependencies. It lacks -trimpath, with which the modules of this repository would be
# compiled again for each module that requires them.
export CGO_ENABLED=0 GOFLAGS=-tags=grpcnotrace,nopgxregisterdefaulttypes

modules=". bench client/go cmd/ganglion domain relay/nats relay/rabbitmq test/browser tools"
step() { printf 'lint: %s\n' "$*"; }

step "go vet, staticcheck"
go vet work
staticcheck=$(go tool -n staticcheck)
"$staticcheck" work # all modules together, so that their dependencies are analysed once
(cd bench && GOWORK=off "$staticcheck" ./...) # not in go.work
(cd router && go vet -tags grpcnotrace,nopgxregisterdefaulttypes,ganglionnext ./...) # the simulated next version, for tests of upgrades
go vet -tags grpcnotrace,nopgxregisterdefaulttypes,hostile ./test/e2e
go vet -tags grpcnotrace,nopgxregisterdefaulttypes,patroni ./test/patroni

step "gofumpt"
unformatted=$(go tool gofumpt -l $(git ls-files -co --exclude-standard '*.go' | grep -v '\.pb\.go$'))
[ -z "$unformatted" ] || { printf 'not formatted, run "make fmt":\n%s\n' "$unformatted"; exit 1; }

step "quotes"
! git grep -nIF -e $'\xc2\xab' -e $'\xc2\xbb' || { echo 'write "plain quotes", or a code span: see CONTRIBUTING.md'; exit 1; }

step "words, import directions, and pages against the code"
go test -count=1 ./test/repo # TestTextAvoidsTheListedPhrases reads the list from CONTRIBUTING.md

step "generated code is current"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp proto/peer/peer.proto "$tmp/"
go run ./tools/protogen "$tmp/peer.proto"
for f in peer.pb.go peer_vtproto.pb.go; do
	diff -q "$tmp/$f" "proto/peer/$f" >/dev/null || { echo "proto/peer/$f is stale, run 'make generate'"; exit 1; }
done

step "the released binary and its size"
go build -ldflags="-s -w -funcalign=8" -o "$tmp/ganglion" ./cmd/ganglion
bytes=$(wc -c <"$tmp/ganglion")
# The console has 0.3 MB of it. The clients of RabbitMQ and NATS have 1.3 MB, of which
# streams of RabbitMQ have 0.08 MB. A program that "ganglion new" writes does not have
# them: it is 1.6 MB smaller.
[ "$bytes" -lt 33200000 ] || {
	echo "the binary has $bytes bytes; the limit is 33200000."
	echo "If the binary grew suddenly, some code may call methods by name, so that the linker keeps every method. Find the code with:"
	echo "go build -tags grpcnotrace,nopgxregisterdefaulttypes -ldflags=-dumpdep ./cmd/ganglion 2>&1 | grep '<ReflectMethod>'"
	exit 1
}
printf '%s\n' '{"ganglion":"log","form":1,"log":"6f0c1c1e-5a4b-4a52-9d0c-1f5a2b3c4d5e","after":0}' '{"end":0,"commits":0}' | "$tmp/ganglion" import --store "$tmp/log" - >/dev/null ||
	{ echo "the binary lacks the embedded store, which 'docker run … dev' needs"; exit 1; }
go test -vet=off -run Types ./eventstore/postgres/internal/driver # with the tag nopgxregisterdefaulttypes

step "alert rules"
promtool=$(scripts/promtool.sh)
"$promtool" check rules deploy/prometheus/alerts.yml >/dev/null
"$promtool" test rules deploy/prometheus/alerts_test.yml deploy/prometheus/drills_test.yml

step "the systemd unit"
command -v systemd-analyze >/dev/null || scripts/install.sh systemd
sed "s#/usr/bin/ganglion#$tmp/ganglion#" deploy/systemd/ganglion.service >"$tmp/ganglion.service"
systemd-analyze verify "$tmp/ganglion.service"
mkdir -p "$tmp/ganglion.service.d" # the lines for other programs
sed -n 's/^#   //p' deploy/systemd/ganglion.service | sed "s#/usr/bin/diner#$tmp/ganglion#" >"$tmp/ganglion.service.d/program.conf"
grep -q '^ExecStart=/' "$tmp/ganglion.service.d/program.conf"
systemd-analyze verify "$tmp/ganglion.service"

step "published documents and the client package, with validators of their ecosystems"
scripts/validators.sh

step "each module alone"
for m in $modules; do
	(cd "$m" && GOWORK=off go vet ./... && GOWORK=off go mod tidy -diff)
done
