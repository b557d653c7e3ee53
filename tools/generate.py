"""Writes what is made from proto/: Python stubs, their types, and a descriptor set with comments.

Runs in the environment of requirements-generate.lock (`make generate` makes it). A generated file
whose proto went away goes too.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "clients" / "python" / "src"
PACKAGE = Path("stepwell", "v1")
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"  # google/protobuf
COMMON = Path(status_pb2.__file__).parent.parent.parent  # google/rpc
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
DOCSTRING = '"""The protocol\'s stubs, generated from proto/; change them there."""\n'


def generate(target: Path) -> list[Path]:
    """Writes the package below `target` and returns its files, relative to it."""
    sources = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto"))
    if not sources:
        sys.exit("there is no .proto file in proto/")
    package = target / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={WELL_KNOWN}",
        f"--proto_path={COMMON}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={package / 'descriptors.binpb'}",
        *(f"--plugin={plugin}={Path(sys.executable).parent / plugin}" for plugin in PLUGINS),
        *sources,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc refused the protos; nothing was changed")
    (package / "__init__.py").write_text(DOCSTRING)
    for path in package.glob("*_pb2_grpc.py*"):
        if not has_services(path.with_name(path.name.split("_pb2_grpc")[0] + ".proto").name):
            path.unlink()
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())


def has_services(name: str) -> bool:
    """Tells whether a proto of the package declares a service."""
    text = (PROTO / PACKAGE / name).read_text()
    return any(line.startswith("service ") for line in text.splitlines())


def main() -> None:
    """Replaces the generated package in the tree."""
    with tempfile.TemporaryDirectory() as folder:
        written = generate(Path(folder))
        shutil.copytree(Path(folder) / PACKAGE, STUBS / PACKAGE, dirs_exist_ok=True)
    for path in (STUBS / PACKAGE).iterdir():
        if path.is_file() and path.relative_to(STUBS) not in written:
            path.unlink()
    print(f"{len(written)} files in {(STUBS / PACKAGE).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
