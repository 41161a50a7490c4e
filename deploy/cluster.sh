#!/usr/bin/env bash
# Starts and stops the cluster of docker-compose.yml:
#
#   deploy/cluster.sh up                build what is missing, start, and return when all services are ready
#   deploy/cluster.sh dev               the same with a binary built here, mounted into the nodes, and any client id
#                                       trusted; run it again after a change to roll the nodes onto the new binary
#   deploy/cluster.sh roll [TAG]        replace the nodes one by one with those of the image with this tag
#   deploy/cluster.sh image             only build the image; with another GANGLION_IMAGE, only check that it is present
#   deploy/cluster.sh scale DOMAIN GATEWAY   set the number of domain nodes and gateways; remove drained ones first
#   deploy/cluster.sh ganglion ARG...   run an operator's command on a gateway: members, token --client ada
#   deploy/cluster.sh secrets LINE      run a shell command in the folder of all secrets, make missing secrets, and
#                                       copy each to the services that read it
#   deploy/cluster.sh secrets ganglion ARG...   the same with an operator's command: revoke, certs
#   deploy/cluster.sh down [--volumes]  stop; keep the log and the secrets, unless --volumes is given
#   deploy/cluster.sh compose ARG...    run any other compose command with the same files
#
# GANGLION_PUBLISH    address for clients (127.0.0.1:8080)
# GANGLION_PUBLISH_CONSOLE   address of the console (127.0.0.1:9100)
# GANGLION_IMAGE      the nodes' image (ganglion), such as your own program's; only ganglion is built here
# GANGLION_TAG        its tag (dev)
# VERSION, REVISION   of the image that is built (the checked-out ones)
# GANGLION_PREBUILT   1: build the binary with this machine's Go, not in Docker
# GANGLION_STANDINS   1: if images can't be pulled, use stand-ins built from this
#                     machine's PostgreSQL and HAProxy, to try the cluster
set -euo pipefail
cd "$(dirname "$0")/.."

image=${GANGLION_IMAGE:-ganglion}
go_image=golang:1.26-alpine
compose_images="postgres:17-alpine haproxy:3.0-alpine"
files=docker-compose.yml
# On a busy machine a container can start more slowly than docker-compose 1.29 allows.
export COMPOSE_HTTP_TIMEOUT=${COMPOSE_HTTP_TIMEOUT:-300}

say() { echo "cluster: $*" >&2; }
fail() { say "$*"; exit 1; }

compose() {
	export COMPOSE_FILE=$files
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

version() { echo "${VERSION:-$(git describe --tags --match 'v*' --always --dirty 2>/dev/null || echo devel)}"; }

# build_binary DIR builds the nodes' binary with this machine's Go.
build_binary() {
	mkdir -p "$1"
	CGO_ENABLED=0 GOWORK=off GOOS=linux GOARCH=$(docker version -f '{{.Server.Arch}}') \
		go -C cmd/ganglion build -tags grpcnotrace,nopgxregisterdefaulttypes -trimpath -ldflags="-s -w -funcalign=8 -X github.com/ganglion-es/ganglion/node.version=$(version)" -o "$(realpath "$1")/ganglion.new" .
	# Replace the file instead of writing into it: running nodes keep the old one.
	mv "$1/ganglion.new" "$1/ganglion"
}

build_image() {
	if [ "$image" != ganglion ]; then # of a program that is built elsewhere
		present "$image:${GANGLION_TAG:-dev}" || fail "no image $image:${GANGLION_TAG:-dev} on this machine: build or pull it first"
		say "using the image $image:${GANGLION_TAG:-dev} as it is; only the image ganglion is built here"
		return
	fi
	local ca dir=dist/image image=$image:${GANGLION_TAG:-dev} args
	args=(--build-arg "VERSION=$(version)" --build-arg "REVISION=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}")
	if [ "${GANGLION_PREBUILT:-0}" = 0 ] && pulled "$go_image"; then
		docker build -q -f deploy/Dockerfile -t "$image" --build-arg GOPROXY "${args[@]}" . >&2
		return
	fi
	say "building ganglion with this machine's Go instead of $go_image"
	build_binary "$dir"
	mkdir -p "$dir/data"
	go run "$(grep -o 'github.com/CycloneDX/[^ ]*' deploy/Dockerfile)" bin -json -output "$dir/sbom.cdx.json" -version "$(version)" "$dir/ganglion"
	for ca in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
		[ -e "$ca" ] && cp -L "$ca" "$dir/ca-certificates.crt" && break
	done
	docker build -q -f deploy/Dockerfile.prebuilt -t "$image" "${args[@]}" "$dir" >&2
}

# use_standins makes later compose commands use stand-ins, unless the real images are
# present.
use_standins() {
	[ "${GANGLION_STANDINS:-0}" = 1 ] || return 0
	# shellcheck disable=SC2086
	present $compose_images || files=$files:test/compose/standins.yml
}

prepare() {
	docker info >/dev/null 2>&1 || fail "Docker does not answer: start it, or see what 'docker info' says"
	# shellcheck disable=SC2086
	if ! pulled $compose_images; then
		[ "${GANGLION_STANDINS:-0}" = 1 ] ||
			fail "images can't be pulled: set GANGLION_STANDINS=1 to use stand-ins built from this machine's programs"
		test/compose/standins.sh
	fi
	use_standins
}

# healthy SERVICE... waits until all containers of the services are healthy.
healthy() {
	local states waiting=""
	local end=$((SECONDS + 120))
	while [ $SECONDS -lt $end ]; do
		# shellcheck disable=SC2046
		states=$(docker inspect -f '{{.Name}}:{{.State.Health.Status}}' $(compose ps -q "$@"))
		waiting=$(grep -v ':healthy$' <<<"$states" | tr '\n' ' ' || true)
		[ -n "$waiting" ] || return 0
		sleep 0.5
	done
	fail "not healthy after two minutes: $waiting- see 'deploy/cluster.sh compose logs'"
}

# program prints the program of a container: the entrypoint of its image.
program() { docker inspect -f '{{index .Config.Entrypoint 0}}' "$1"; }

# a_gateway prints the container of a ready gateway, or, if none is ready, of a running
# one that is not paused.
a_gateway() {
	local id ids running=""
	ids=$(compose ps -q gateway)
	for id in $ids; do
		[ "$(docker inspect -f '{{.State.Status}}' "$id")" = running ] || continue
		running=${running:-$id}
		if timeout 10 docker exec "$id" "$(program "$id")" healthcheck >/dev/null 2>&1; then
			echo "$id"
			return
		fi
	done
	[ -n "$running" ] || fail "no gateway runs: see 'deploy/cluster.sh compose ps'"
	echo "$running"
}

# drained prints the containers of drained nodes.
drained() {
	local id ids says
	ids=$(compose ps -q domain gateway)
	for id in $ids; do
		says=$(timeout 10 docker exec "$id" "$(program "$id")" healthcheck 2>&1 || true)
		[[ $says != *"drained by an operator"* ]] || echo "$id"
	done
}

ready() {
	healthy postgres domain gateway balancer
	local gateway url console="" ada=dev:ada as="?as=ada" other="?as=bob" house
	gateway=$(a_gateway)
	url=http://$(compose port balancer 8080)
	[ "${GANGLION_AUTH:-jwt}" = dev ] || # without tokens it asks for a certificate, which the load balancer does not have
		console="The console is at http://$(compose port balancer 9100)/_ganglion/; for its token: deploy/cluster.sh ganglion token --client ada --claim ganglion_role=operator"
	token() { docker exec "$gateway" "$(program "$gateway")" token --client "$1" --expires-in 24h; }
	if [ "$image" != ganglion ]; then
		echo "cluster: ready $url; a token for a client: deploy/cluster.sh ganglion token --client ada"
		echo "$console"
		return
	fi
	if [ "${GANGLION_AUTH:-jwt}" = jwt ]; then
		ada=$(token ada)
		house=$(token house)
		as="#token=$ada&house=$house"
		other="#token=$(token bob)&house=$house"
	fi
	cat <<-EOF
		cluster: ready $url

		A live auction, for two browsers:

		  $url/examples/auction/$as

		  $url/examples/auction/$other

		Without a browser, run:

		  curl -s $url/v1/commands -H 'Authorization: Bearer $ada' -d '{"id":"1","aggregate":"counter/c","command":"add","data":{"by":1}}'

		$console
	EOF
}

up() {
	prepare
	build_image
	compose up -d --no-build
	ready
}

dev() {
	prepare
	present "$image:${GANGLION_TAG:-dev}" || build_image
	files=$files:deploy/compose.dev.yml
	export GANGLION_AUTH=dev GANGLION_JWT_HMAC_FILE= GANGLION_JWT_REVOCATIONS=
	local running
	running=$(compose ps -q domain gateway)
	build_binary dist/dev
	compose up -d --no-build
	[ -z "$running" ] || each_node restart_node
	ready
}

# once ARG... runs a one-shot service and waits for its end.
once() { compose run --rm -T --no-deps "$@" >&2; }

secrets() {
	case ${1:-} in
	"") ;;
	ganglion) once -w /authority certs "${@:2}" ;;
	*) once -w /authority --entrypoint /bin/sh secrets -c "umask 077; $*" ;;
	esac
	once certs </dev/null
	once secrets </dev/null
}

restart_node() { docker restart "$1" >/dev/null; }

# replace_node drains and removes a node, and starts another with the image of the tag.
replace_node() {
	docker stop "$1" >/dev/null
	docker rm "$1" >/dev/null
	compose up -d --no-build --no-recreate --no-deps --scale "$2=$3" "$2" >/dev/null 2>&1
}

# each_node FUNCTION calls a function for each node, one after another.
each_node() {
	local service id ids
	for service in domain gateway; do
		ids=$(compose ps -q "$service")
		for id in $ids; do
			"$1" "$id" "$service" "$(wc -w <<<"$ids")"
			healthy "$service"
			say "$service ${id:0:12}: done"
		done
	done
}

# scale removes drained nodes first, since compose would remove the newest containers,
# drained or not.
scale() {
	local id ids most
	most=$(sed -n 's/^ *server-template gateway \([0-9]*\) .*/\1/p' deploy/haproxy.cfg)
	[ "$2" -le "$most" ] || fail "the load balancer allows $most gateways: for more, raise the number after 'server-template gateway' in deploy/haproxy.cfg"
	ids=$(drained)
	for id in $ids; do
		say "removing the drained node ${id:0:12}"
		docker stop "$id" >/dev/null
		docker rm "$id" >/dev/null
	done
	compose up -d --no-build --no-recreate --no-deps --scale "domain=$1" --scale "gateway=$2" domain gateway
	healthy domain gateway
}

usage="deploy/cluster.sh up | dev | roll [TAG] | image | scale DOMAIN GATEWAY | ganglion ARG... | secrets [LINE | ganglion ARG...] | down [--volumes] | compose ARG..."
command=${1:-}
[ $# -eq 0 ] || shift
case $command in
up) up ;;
dev) dev ;;
image) build_image ;;
roll)
	use_standins
	export GANGLION_TAG=${1:-${GANGLION_TAG:-dev}}
	present "$image:$GANGLION_TAG" || fail "no image $image:$GANGLION_TAG on this machine: build or pull it first"
	secrets # make the secrets that a newer release adds
	each_node replace_node
	;;
scale)
	[ $# = 2 ] || fail "usage: deploy/cluster.sh scale DOMAIN GATEWAY"
	use_standins && scale "$@"
	;;
ganglion) use_standins && gateway=$(a_gateway) && docker exec "$gateway" "$(program "$gateway")" "$@" ;;
secrets) use_standins && secrets "$@" ;;
down) use_standins && compose down "$@" ;;
compose) use_standins && compose "$@" ;;
*) fail "usage: $usage" ;;
esac
