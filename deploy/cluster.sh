#!/usr/bin/env bash
# Starts and stops the cluster of docker-compose.yml:
#
#   deploy/cluster.sh up                make what is missing, start, return when all of it serves
#   deploy/cluster.sh down [--volumes]  stop; the log stays, unless --volumes
#   deploy/cluster.sh compose ARG...    any other command, with the same files
#
# GANGLION_PUBLISH    where clients connect (127.0.0.1:8080)
# GANGLION_SECRETS    folder of the secrets (./secrets)
# GANGLION_PREBUILT   1: build the binary with this machine's Go, not in Docker
# GANGLION_STANDINS   1: where images can't be pulled, use stand-ins made of this
#                     machine's own PostgreSQL and HAProxy; only for trying out
set -euo pipefail
cd "$(dirname "$0")/.."

go_image=golang:1.26-alpine
compose_images="postgres:17-alpine haproxy:3.0-alpine"

say() { echo "cluster: $*" >&2; }
fail() { say "$*"; exit 1; }

compose() {
	if docker compose version >/dev/null 2>&1; then
		docker compose "$@"
	elif command -v docker-compose >/dev/null; then
		docker-compose "$@"
	else
		fail "docker compose is missing: install Docker's compose plugin, or docker-compose"
	fi
}

present() { local i; for i in "$@"; do docker image inspect "$i" >/dev/null 2>&1 || return 1; done; }
pulled() { local i; for i in "$@"; do present "$i" || docker pull -q "$i" >&2 || return 1; done; }

# A secret is made once. Compose mounts its file as it is, and two users read
# it that this machine need not know: PostgreSQL's and the nodes'. So the
# folder's mode keeps everybody else on this machine out, and the file's lets
# the containers in.
make_secrets() {
	local dir=${GANGLION_SECRETS:-secrets}
	mkdir -p "$dir"
	chmod 700 "$dir"
	secret() {
		[ ! -s "$dir/$1" ] || return 0
		cat >"$dir/$1.new"
		chmod 444 "$dir/$1.new"
		mv "$dir/$1.new" "$dir/$1"
		say "made $dir/$1"
	}
	secret gossip-key < <(head -c 32 /dev/urandom | base64)
	secret database-password < <(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
}

build_image() {
	if [ "${GANGLION_PREBUILT:-0}" = 0 ] && pulled "$go_image"; then
		docker build -q -f deploy/Dockerfile -t ganglion:dev --build-arg GOPROXY . >&2
		return
	fi
	say "building ganglion with this machine's Go instead of $go_image"
	local ca dir=dist/image
	mkdir -p "$dir"
	CGO_ENABLED=0 GOWORK=off GOOS=linux GOARCH=$(docker version -f '{{.Server.Arch}}') \
		go build -trimpath -ldflags="-s -w" -o "$dir/ganglion" ./cmd/ganglion
	for ca in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
		[ -e "$ca" ] && cp -L "$ca" "$dir/ca-certificates.crt" && break
	done
	docker build -q -f deploy/Dockerfile.prebuilt -t ganglion:dev "$dir" >&2
}

# use_standins makes compose use them from here on, unless the real images are
# there.
use_standins() {
	[ "${GANGLION_STANDINS:-0}" = 1 ] || return 0
	# shellcheck disable=SC2086
	present $compose_images || export COMPOSE_FILE=docker-compose.yml:test/compose/standins.yml
}

up() {
	docker info >/dev/null 2>&1 || fail "Docker does not answer: start it, or see what «docker info» says"
	make_secrets
	# shellcheck disable=SC2086
	if ! pulled $compose_images; then
		[ "${GANGLION_STANDINS:-0}" = 1 ] ||
			fail "these images can't be pulled; GANGLION_STANDINS=1 makes stand-ins of this machine's own programs, to try it out"
		test/compose/standins.sh
	fi
	use_standins
	build_image
	compose up -d --no-build
	local states waiting
	for _ in $(seq 120); do
		# shellcheck disable=SC2046
		states=$(docker inspect -f '{{.Name}}:{{.State.Health.Status}}' $(compose ps -aq))
		waiting=$(grep -v ':healthy$' <<<"$states" | tr '\n' ' ' || true)
		[ -n "$waiting" ] || break
		sleep 0.5
	done
	[ -z "$waiting" ] || fail "not ready after a minute: $waiting- see «deploy/cluster.sh compose logs»"
	say "ready http://$(compose port balancer 8080)"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
up) up ;;
down) use_standins && compose down "$@" ;;
compose) use_standins && compose "$@" ;;
*) fail "usage: deploy/cluster.sh up | down [--volumes] | compose ARG..." ;;
esac
