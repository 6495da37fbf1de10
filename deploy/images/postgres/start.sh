#!/bin/bash
# The entrypoint of a stand-in for the image `postgres`. On an empty volume it creates the database POSTGRES_DB, owned
# by postgres with the password POSTGRES_PASSWORD, and runs the SQL files of /docker-entrypoint-initdb.d.
set -euo pipefail

if [ "$(id -u)" -eq 0 ]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    install -d -o postgres -g postgres -m 775 /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?the password of the owner postgres, on an empty volume}"
    initdb --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-local=trust \
        --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    # Listens only on its Unix socket, so that it does not appear ready before the roles exist.
    pg_ctl --wait --options="-c listen_addresses=''" start
    [ "${POSTGRES_DB:-postgres}" = postgres ] || createdb --username=postgres "$POSTGRES_DB"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ -e "$file" ] || continue
        echo "running $file"
        psql --username=postgres --dbname="${POSTGRES_DB:-postgres}" --no-psqlrc --variable=ON_ERROR_STOP=1 --file="$file"
    done
    pg_ctl --wait --mode=fast stop
fi

exec postgres -c listen_addresses='*' "$@"
