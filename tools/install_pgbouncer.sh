#!/bin/sh
# Installs PgBouncer for the tests of poolers. Where it can't, it says what to do and, outside CI, goes on.
set -eu
PATH=$PATH:/usr/sbin

if ! command -v pgbouncer >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "SKIPPED pgbouncer: install it with the system's packages (Debian: apt-get install pgbouncer)" >&2
        test -z "${CI:-}"
        exit
    fi
    echo "installing pgbouncer (apt)"
    # Its package starts a service, which nobody here wants.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends pgbouncer >/dev/null
fi
pgbouncer --version | head -n 1
