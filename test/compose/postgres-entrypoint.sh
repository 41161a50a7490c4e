#!/bin/sh
# Does what docker-compose.yml needs of the official image's entrypoint, in the
# same way: it drops root first, so that the password's file must be readable
# to the user postgres.
set -eu
if [ "$(id -u)" = 0 ]; then
	chown postgres "$PGDATA"
	exec su postgres -c "exec $0"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	# shellcheck disable=SC2086
	initdb -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" -E UTF8 --no-locale $POSTGRES_INITDB_ARGS
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	# A single-user server makes the database before anyone can connect.
	echo "CREATE DATABASE $POSTGRES_DB" | postgres --single postgres
fi
exec postgres -c listen_addresses='*' -k /run/postgresql
