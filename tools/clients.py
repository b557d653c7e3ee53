"""Writes the stubs of the Go and the TypeScript client from proto/; with `--check`, proves that they are current.

Runs in the environment of requirements-generate.lock. A language whose generator is not here is said and left out;
where CI is set that is a failure.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from generate import COMMON, PROTO, ROOT, WELL_KNOWN
from grpc_tools import protoc

MODULE = "github.com/stepwell/stepwell/clients/go"
# What the protocol takes from elsewhere, for a language whose packages do not have it.
RPC = ("google/rpc/status.proto", "google/rpc/error_details.proto")


class Language(NamedTuple):
    """A client's stubs: where they are, what makes them, and how it is told."""

    folder: Path
    plugins: dict[str, Path]
    options: tuple[str, ...]
    more: tuple[str, ...] = ()


def _tool(variable: str) -> Path:
    return ROOT / os.environ.get(variable, variable)


LANGUAGES = {
    "go": Language(
        ROOT / "clients/go/stepwell",
        {"protoc-gen-go": _tool("PROTOC_GEN_GO"), "protoc-gen-go-grpc": _tool("PROTOC_GEN_GO_GRPC")},
        (
            "--go_out={target}",
            f"--go_opt=module={MODULE}/stepwell",
            "--go-grpc_out={target}",
            f"--go-grpc_opt=module={MODULE}/stepwell",
        ),
    ),
    "typescript": Language(
        ROOT / "clients/typescript/src/gen",
        {"protoc-gen-es": ROOT / "clients/typescript/node_modules/.bin/protoc-gen-es"},
        ("--es_out={target}", "--es_opt=target=ts", "--es_opt=import_extension=js"),
        RPC,
    ),
}


def generate(language: Language, target: Path) -> None:
    """Writes a language's stubs into a folder."""
    sources = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto"))
    arguments = [
        "protoc",
        *(f"--proto_path={path}" for path in (PROTO, WELL_KNOWN, COMMON)),
        *(f"--plugin={name}={path}" for name, path in language.plugins.items()),
        *(option.format(target=target) for option in language.options),
        *sources,
        *language.more,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc refused the protos; nothing was changed")


def files(folder: Path) -> dict[Path, bytes]:
    """All files below a folder, relative to it."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def here() -> Iterator[tuple[str, Language]]:
    """The languages whose generators are installed."""
    for name, language in LANGUAGES.items():
        missing = [plugin for plugin, path in language.plugins.items() if not path.exists()]
        if not missing:
            yield name, language
            continue
        print(f"SKIPPED stubs of {name}: {', '.join(missing)} is not here; `make tools` installs it", file=sys.stderr)
        if os.environ.get("CI"):
            sys.exit(1)


def main() -> None:
    """Replaces them, or compares."""
    is_check = "--check" in sys.argv[1:]
    for name, language in here():
        with tempfile.TemporaryDirectory() as place:
            generate(language, Path(place))
            made = files(Path(place))
            if is_check and made != files(language.folder):
                sys.exit(f"the stubs of {name} are not current: run `make generate`")
            if not is_check:
                shutil.rmtree(language.folder, ignore_errors=True)
                shutil.copytree(place, language.folder)
        print(f"{name}: {len(made)} stubs {'are current' if is_check else 'written'}")


if __name__ == "__main__":
    main()
