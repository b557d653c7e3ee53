#!/bin/sh
# Installs buf VERSION as FOLDER/bin/buf-VERSION: from npm where there is one, else built by Go.
# With neither it says so and, outside CI, goes on.
set -eu
version=$1
folder=$2
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)

if command -v npm >/dev/null; then
    echo "installing buf $version (npm)"
    npm install --silent --no-fund --no-audit --prefix "$folder/npm" "@bufbuild/buf@$version"
    binary=$(find "$folder/npm/node_modules/@bufbuild" -path '*/buf-*/bin/buf' | head -n 1)
    cp "$binary" "$folder/bin/buf-$version"
elif command -v go >/dev/null; then
    echo "installing buf $version (go)"
    GOBIN="$folder/bin" go install "github.com/bufbuild/buf/cmd/buf@v$version"
    mv "$folder/bin/buf" "$folder/bin/buf-$version"
else
    echo "SKIPPED buf $version: neither npm nor go is here to install it" >&2
    test -z "${CI:-}"
    exit
fi
chmod +x "$folder/bin/buf-$version"
ln -sf "buf-$version" "$folder/bin/buf"
"$folder/bin/buf" --version
