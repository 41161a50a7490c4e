#!/usr/bin/env bash
# Tests docker-compose.yml: starts the cluster, loads it through the load balancer with
# the program of this folder and with "ganglion bench" while nodes are killed, paused, cut
# off, rolled, scaled and drained and PostgreSQL is restarted, checks every event, and
# always removes the cluster. It takes about 20 minutes on two processors.
#
# On Debian it installs missing packages. As root it starts a Docker daemon if none is
# running. Stand-ins (standins.sh) replace images that cannot be pulled.
#   GANGLION_PUBLISH   port of the load balancer (default any free one)
#   COMMANDS           minimal number of commands (default 5000)
#   SHORT=1            the form for CI, 2 minutes: kill a node, drain one, restart PostgreSQL.
#                      Without a Docker daemon it prints NOT RUN and succeeds
#   DRILLS=1           only the drills of docs/runbooks.md#drills
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "test-compose: $*"; }

work=$(mktemp -d)
daemon="" bench=""
# The project, its volumes with the secrets, and the tag of the image differ from those
# of a real cluster, which the test leaves alone.
export COMPOSE_PROJECT_NAME=ganglion-test GANGLION_TAG=test GANGLION_PUBLISH=${GANGLION_PUBLISH:-127.0.0.1:0} GANGLION_PUBLISH_CONSOLE=127.0.0.1:0 GANGLION_STANDINS=${GANGLION_STANDINS:-1}

finish() {
	local code=$?
	trap - EXIT
	if docker info >/dev/null 2>&1; then
		if [ $code != 0 ]; then
			say "failed; the last lines of each log:"
			deploy/cluster.sh compose logs --no-color --tail 40 || true
		fi
		[ -z "$bench" ] || docker rm -f "$bench" >/dev/null
		deploy/cluster.sh down --volumes >/dev/null 2>&1 || say "could not remove the cluster, see docker ps -a"
	fi
	[ -z "$daemon" ] || stop_daemon
	rm -rf "$work"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

need=""
command -v docker >/dev/null || need="docker.io"
command -v curl >/dev/null || need="$need curl"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || need="$need docker-compose"
docker info >/dev/null 2>&1 || [ "$(id -u)" != 0 ] || command -v dockerd >/dev/null || need="$need docker.io"
# shellcheck disable=SC2086
[ -z "$need" ] || scripts/install.sh $need iptables

# start_daemon DRIVER starts a Docker daemon and waits until it answers.
start_daemon() {
	# setsid protects it from Ctrl-C, since finish needs it to remove the cluster.
	setsid dockerd --storage-driver="$1" >"$work/dockerd.log" 2>&1 &
	daemon=$!
	for _ in $(seq 100); do
		docker info >/dev/null 2>&1 && say "started a Docker daemon, $1" && return
		kill -0 "$daemon" 2>/dev/null || break
		sleep 0.2
	done
	stop_daemon
	return 1
}
stop_daemon() {
	kill "$daemon" 2>/dev/null || true
	wait "$daemon" 2>/dev/null || true
	daemon=""
}
no_daemon() {
	say "NOT RUN: $1"
	[ -n "${SHORT:-}" ] && exit 0 || exit 1
}
if ! docker info >/dev/null 2>&1; then
	[ "$(id -u)" = 0 ] || no_daemon "Docker does not answer, and only root can start it"
	start_daemon overlay2 || start_daemon vfs || { tail -n 20 "$work/dockerd.log"; no_daemon "no Docker daemon starts here"; }
fi

# Remove the cluster of a killed run.
deploy/cluster.sh down --volumes >/dev/null 2>&1
# docker-compose 1.29 waits forever for a node that restarts in a loop.
timeout --foreground 600 deploy/cluster.sh up >/dev/null

# The load balancer passes the program's pages, and keeps what is for operators inside,
# however its path is written.
clients=http://$(deploy/cluster.sh compose port balancer 8080)
for request in 302:/ 200:/examples/auction/auction.js 200:/v1/docs 404:/metrics 404:/%6detrics 307://metrics 404:/healthz 404:/v1/cluster 404:/v1/%63luster; do
	got=$(curl -s --path-as-is -o /dev/null -w '%{http_code}' "$clients${request#*:}")
	[ "$got" = "${request%%:*}" ] || { say "the load balancer answers ${request#*:} with $got, want ${request%%:*}"; exit 1; }
done
# The console is on a port of its own, and asks for a token.
console=http://$(deploy/cluster.sh compose port balancer 9100)/_ganglion
viewer=$(deploy/cluster.sh ganglion token --client vera --claim ganglion_role=viewer)
for request in 200:/ 401:/api/me "200:/api/me -H authorization:Bearer\ $viewer"; do
	eval "got=\$(curl -s -o /dev/null -w '%{http_code}' $console${request#*:})"
	[ "$got" = "${request%%:*}" ] || { say "the console answers ${request#*:} with $got, want ${request%%:*}"; exit 1; }
done
# The image alone runs a cluster of one node on the embedded store.
one=$(docker run -d ganglion:test dev --listen :8080)
for _ in $(seq 60); do
	health=$(docker inspect -f '{{.State.Health.Status}}' "$one")
	[ "$health" = starting ] || break
	sleep 1
done
[ "$health" = healthy ] || { docker logs "$one"; docker rm -f "$one" >/dev/null; say "'docker run … dev' is $health"; exit 1; }
docker rm -f "$one" >/dev/null
CGO_ENABLED=0 go build -o "$work/load" ./test/compose # like make lint, which has compiled the dependencies
load() {
	timeout --foreground 1200 "$work/load" -url "http://$(deploy/cluster.sh compose port balancer 8080)" \
		-token "$(deploy/cluster.sh ganglion token --client load --expires-in 1h)" "$@"
}
if [ -n "${DRILLS:-}" ]; then
	load -plan drills -commands 0
	load -plan restore
	deploy/cluster.sh ganglion verify
	say "passed, the drills"
	exit
fi
if [ -n "${SHORT:-}" ]; then
	load -plan short -commands "${COMMANDS:-1000}"
	deploy/cluster.sh ganglion verify
	say "passed, the short form"
	exit
fi

# An image of a program that is built elsewhere is only started.
docker tag ganglion:test ganglion-test-elsewhere:test
GANGLION_IMAGE=ganglion-test-elsewhere timeout --foreground 600 deploy/cluster.sh up | grep "^cluster: ready $clients;" || { say "a cluster of another image is not ready"; exit 1; }
timeout --foreground 600 deploy/cluster.sh up >/dev/null
docker image rm ganglion-test-elsewhere:test >/dev/null

docker build -q -t ganglion:test-next - >/dev/null <<<"FROM ganglion:test
LABEL org.opencontainers.image.version=next"

# "ganglion bench" runs in its own container, on the network of clients. It exits with 1
# if a command fails.
bench=$(docker run -d --no-healthcheck --network "${COMPOSE_PROJECT_NAME}_front" ganglion:test bench --url http://balancer:8080 --duration 1h --timeout 1m \
	--token "$(deploy/cluster.sh ganglion token --client bench --expires-in 2h)" --rate 20 --aggregates 20 --reconnect-every 20s)
load -tag test-next -commands "${COMMANDS:-5000}"
docker stop -t 90 "$bench" >/dev/null
docker logs "$bench" 2>&1 | grep -v '^bench: ' || true
[ "$(docker inspect -f '{{.State.ExitCode}}' "$bench")" = 0 ] || { say "'ganglion bench' failed"; exit 1; }
# The drills change the secret of the bench's token, so they run without it.
load -plan drills -commands 0
load -plan restore
deploy/cluster.sh ganglion verify
say "passed"
