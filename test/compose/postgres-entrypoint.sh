#!/bin/sh
# Implements the parts of the official image's entrypoint that docker-compose.yml needs.
# Like the official one, it drops root first, so the user postgres must be able to read
# the password file.
set -eu
if [ "$(id -u)" = 0 ]; then
	chown postgres "$PGDATA"
	exec su postgres -c "exec $0"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	# shellcheck disable=SC2086
	initdb -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" -E UTF8 --no-locale $POSTGRES_INITDB_ARGS
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	# A single-user server creates the database before clients can connect.
	echo "CREATE DATABASE $POSTGRES_DB" | postgres --single postgres
fi
exec postgres -c listen_addresses='*' -k /run/postgresql
