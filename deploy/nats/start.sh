#!/bin/sh
# Starts nats-server in a container: alone, or as one of three where the profile `cluster` of docker-compose.yml is on.
# What follows its name is passed on.
#
# Profiles given with --profile don't reach a container, so that one must be named in COMPOSE_PROFILES: otherwise the
# first server would stand alone beside a cluster of the other two, and half of the services would not hear the rest.
set -eu

case ",${COMPOSE_PROFILES:-}," in
*,cluster,*)
    conf=cluster
    for number in 1 2 3; do
        export "NATS_ROUTE_$number=nats://route:$NATS_ROUTE_PASSWORD@nats-$number:6222"
    done
    ;;
*)
    conf=single
    if [ "${NATS_SERVER_NAME:-nats-1}" != nats-1 ]; then
        echo "set COMPOSE_PROFILES=cluster, in .env or in front of the command, rather than --profile cluster" >&2
        exit 1
    fi
    ;;
esac

# Apart, as a stream of a single server is none of a cluster.
export NATS_STORE_DIR="/data/$conf"
exec nats-server --config "/etc/nats/$conf.conf" "$@"
