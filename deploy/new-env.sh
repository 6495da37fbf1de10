#!/bin/sh
# Prints .env.example with a password of its own for each that is empty: `deploy/new-env.sh > .env`. Write the key that
# your backend signs tokens with over JWT_SECRET, unless that is new as well.
set -eu

random() {
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

while IFS= read -r line; do
    case $line in
    *_PASSWORD= | *_SECRET=) echo "${line}p$(random)" ;;
    *) echo "$line" ;;
    esac
done <"$(dirname "$0")/../.env.example"
