#!/bin/sh
# Installs the locked packages of the npm project in FOLDER. Without npm it says so and, outside CI, goes on.
set -eu
cd "$1"

if ! command -v npm >/dev/null; then
    echo "SKIPPED $1: npm is not here to install its packages" >&2
    test -z "${CI:-}"
    exit
fi
echo "installing $1 (npm)"
npm ci --no-audit --no-fund --loglevel=error
touch node_modules/.ready
