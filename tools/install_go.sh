#!/bin/sh
# Builds NAME VERSION from the Go package PACKAGE as FOLDER/bin/NAME-VERSION, with variables of its packages SET to what
# its own build would (`package.variable=value`). Without Go it says so and, outside CI, goes on.
set -eu
name=$1
version=$2
package=$3
folder=$4
shift 4
flags="-s -w"
for set in "$@"; do
    flags="$flags -X $set"
done
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)

if ! command -v go >/dev/null; then
    echo "SKIPPED $name $version: go is not here to build it" >&2
    test -z "${CI:-}"
    exit
fi
echo "installing $name $version (go)"
GOBIN="$folder/bin" CGO_ENABLED=0 go install -ldflags "$flags" "$package@v$version"
mv "$folder/bin/$name" "$folder/bin/$name-$version"
ln -sf "$name-$version" "$folder/bin/$name"
test -x "$folder/bin/$name"
echo "$name $version"
