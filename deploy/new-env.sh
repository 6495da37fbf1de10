#!/bin/sh
# Prints .env.example with a new password for each empty one: `deploy/new-env.sh > .env`. Then set JWT_SECRET to the key
# with which your backend signs tokens, unless the backend takes over the new one.
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
