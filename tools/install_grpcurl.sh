#!/bin/sh
# Builds grpcurl VERSION as FOLDER/bin/grpcurl-VERSION. Without Go it says so and, outside CI, goes on.
set -eu
version=$1
folder=$2
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)

if ! command -v go >/dev/null; then
    echo "SKIPPED grpcurl $version: go is not here to build it" >&2
    test -z "${CI:-}"
    exit
fi
echo "installing grpcurl $version (go)"
GOBIN="$folder/bin" CGO_ENABLED=0 go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$version"
mv "$folder/bin/grpcurl" "$folder/bin/grpcurl-$version"
ln -sf "grpcurl-$version" "$folder/bin/grpcurl"
test -x "$folder/bin/grpcurl"
echo "grpcurl $version"
