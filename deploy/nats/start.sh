#!/bin/sh
# Starts nats-server in a container: alone, or as one of three with the profile `cluster` of docker-compose.yml.
# Arguments are passed on to nats-server.
#
# Containers can't see profiles from --profile, so the profile must be in COMPOSE_PROFILES. Otherwise the first server
# would not join the cluster of the other two, and half of the services could not reach the other half.
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
        echo "set COMPOSE_PROFILES=cluster, in .env or in front of the command, instead of --profile cluster" >&2
        exit 1
    fi
    ;;
esac

# Separate folders, because a cluster can't use the streams of a single server.
export NATS_STORE_DIR="/data/$conf"
exec nats-server --config "/etc/nats/$conf.conf" "$@"
