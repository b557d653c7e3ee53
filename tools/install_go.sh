#!/bin/sh
# Builds NAME VERSION from the Go package PACKAGE as FOLDER/bin/NAME-VERSION. Without Go it says so and, outside CI,
# goes on.
set -eu
name=$1
version=$2
package=$3
folder=$4
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)

if ! command -v go >/dev/null; then
    echo "SKIPPED $name $version: go is not here to build it" >&2
    test -z "${CI:-}"
    exit
fi
echo "installing $name $version (go)"
GOBIN="$folder/bin" CGO_ENABLED=0 go install -ldflags "-s -w" "$package@v$version"
mv "$folder/bin/$name" "$folder/bin/$name-$version"
ln -sf "$name-$version" "$folder/bin/$name"
test -x "$folder/bin/$name"
echo "$name $version"
