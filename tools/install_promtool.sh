#!/bin/sh
# Takes promtool out of Debian's package of Prometheus into FOLDER/bin: to build it takes many minutes. Where there is no
# such package it says so and, outside CI, goes on.
set -eu
folder=$1
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "SKIPPED promtool: there is no apt-get to fetch it" >&2
    test -z "${CI:-}"
    exit
fi
echo "installing promtool (apt)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download --quiet=2 prometheus 2>/dev/null || { apt-get update --quiet=2 && apt-get download --quiet=2 prometheus; }
dpkg-deb --fsys-tarfile prometheus_*.deb | tar x ./usr/bin/promtool
mv usr/bin/promtool "$folder/bin/promtool"
test -x "$folder/bin/promtool"
"$folder/bin/promtool" --version | head -1
