#!/usr/bin/env bash
# Makes stand-ins for the PostgreSQL and HAProxy images of docker-compose.yml from the
# programs of this machine (Debian or a derivative), for machines that cannot pull images.
# standins.yml uses them. Do not push them.
set -euo pipefail
cd "$(dirname "$0")"

command -v apt-get >/dev/null || { echo "stand-ins need Debian or a derivative" >&2; exit 1; }
DATABASE_URL='' PG_BIN='' ../../scripts/postgres.sh
PATH=$PATH:/usr/sbin
need=""
command -v haproxy >/dev/null || need="$need haproxy"
command -v busybox >/dev/null || need="$need busybox-static"
# shellcheck disable=SC2086
[ -z "$need" ] || ../../scripts/install.sh $need

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# root DIR PROGRAM... fills DIR with a shell, users, and the libraries of the programs.
root() {
	local dir=$1
	shift
	mkdir -p "$dir/bin" "$dir/etc"
	cp "$(command -v busybox)" "$dir/bin/busybox"
	printf '%s\n' 'root:x:0:0::/:/bin/sh' 'postgres:x:70:70::/:/bin/sh' 'haproxy:x:99:99::/:/bin/sh' >"$dir/etc/passwd"
	printf '%s\n' 'root:x:0:' 'postgres:x:70:' 'haproxy:x:99:' >"$dir/etc/group"
	ldd "$@" | grep -o '/[^ ]*\.so[^ :]*' | sort -u | grep -vxFf <(printf '%s\n' "$@") | xargs cp -L --parents -t "$dir"
}

pg=$(printf '%s\n' /usr/lib/postgresql/* | sort -V | tail -n 1)
r=$work/postgres/root
# Without llvmjit PostgreSQL does not compile queries, and needs no LLVM.
mapfile -t programs < <(printf '%s\n' "$pg"/bin/{postgres,initdb,psql,pg_isready,pg_dump,pg_restore} "$pg"/lib/*.so | grep -v llvmjit)
root "$r" "${programs[@]}"
cp -L --parents -t "$r" "${programs[@]}"
mkdir -p "$r/usr/share/postgresql" "$r/usr/local/bin"
cp -r "/usr/share/postgresql/${pg##*/}" "$r/usr/share/postgresql/"
cp postgres-entrypoint.sh "$r/usr/local/bin/"
cat >"$work/postgres/Dockerfile" <<D
FROM scratch
COPY root /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /tmp /run/postgresql /var/lib/postgresql/data && ln -s /run /var/run && chmod 1777 /tmp && chown postgres /run/postgresql /var/lib/postgresql/data
ENV PATH=/usr/local/bin:$pg/bin:/bin PGDATA=/var/lib/postgresql/data
ENTRYPOINT ["postgres-entrypoint.sh"]
STOPSIGNAL SIGINT
D

root "$work/haproxy/root" "$(command -v haproxy)"
install -D "$(command -v haproxy)" "$work/haproxy/root/usr/local/bin/haproxy"
cat >"$work/haproxy/Dockerfile" <<'D'
FROM scratch
COPY root /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/usr/local/bin:/bin
USER haproxy
ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
STOPSIGNAL SIGUSR1
D

for image in postgres haproxy; do
	out=$(docker build -q -t "ganglion-standin/$image" "$work/$image" 2>&1) || { echo "$out" >&2; exit 1; }
done
echo "stand-ins made from PostgreSQL ${pg##*/}, $(haproxy -v | head -n 1)"
