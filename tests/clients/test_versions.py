"""What docs/clients.md promises of versions is what each client's own manifest says."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "clients"


def _row(client: str) -> list[str]:
    """The cells of a client's row: its language, gRPC, protobuf, and what generates its stubs."""
    section = (ROOT / "docs/clients.md").read_text().partition("## Which versions")[2]
    (row,) = [line for line in section.splitlines() if line.startswith(f"| {client} |")]
    return [cell.strip() for cell in row.strip("|").split("|")[1:]]


def _found(pattern: str, path: str) -> str:
    (found,) = set(re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE))
    return str(found)


def test_python() -> None:
    language, grpc, protobuf, _ = _row("Python")
    project = tomllib.loads((CLIENTS / "python/pyproject.toml").read_text())["project"]
    ranges = dict(re.split(r"(?=[>=])", each, maxsplit=1) for each in project["dependencies"])
    assert project["requires-python"] == f">={language.split()[0]}"
    assert ranges["grpcio"] == f">={grpc.split()[-1]}"
    assert ranges["protobuf"] == ">={},<{}".format(*re.findall(r"[\d.]+", protobuf))


def test_go() -> None:
    """Go takes the oldest version that satisfies all: the tests run with what is promised."""
    language, grpc, protobuf, stubs = _row("Go")
    assert _found(r"^go (\d+\.\d+)", "clients/go/go.mod") == language.split()[0]
    assert _found(r"google.golang.org/grpc v(\d+\.\d+)\.0$", "clients/go/go.mod") == grpc.split()[-1]
    assert _found(r"google.golang.org/protobuf v(\S+)$", "clients/go/go.mod") == protobuf.split()[-1]
    for name in ("PROTOC_GEN_GO", "PROTOC_GEN_GO_GRPC"):
        program = name.lower().replace("_", "-")
        assert f"`{program}` {_found(f'^{name}_VERSION := (.*)$', 'Makefile')}" in stubs


def test_typescript() -> None:
    language, connect, protobuf, stubs = _row("TypeScript")
    package = json.loads((CLIENTS / "typescript/package.json").read_text())
    assert package["engines"]["node"] == f">={language.split()[1]}"
    wanted = package["dependencies"]
    assert {wanted["@connectrpc/connect"], wanted["@connectrpc/connect-node"]} == {f"^{connect.split()[1]}.0"}
    assert wanted["@bufbuild/protobuf"] == f"^{protobuf.split()[1]}.0"
    assert f"`protoc-gen-es` {package['devDependencies']['@bufbuild/protoc-gen-es']}" in stubs


def test_rust() -> None:
    language, grpc, protobuf, _ = _row("Rust")
    cargo = tomllib.loads((CLIENTS / "rust/Cargo.toml").read_text())
    assert cargo["package"]["rust-version"] == language.split()[0]
    assert cargo["dependencies"]["tonic"]["version"] == grpc.split()[1]
    assert cargo["dependencies"]["prost"] == protobuf.split()[1]


def test_java() -> None:
    language, grpc, protobuf, _ = _row("Java")
    pom = "clients/java/pom.xml"
    assert _found(r"<maven.compiler.release>(.*)<", pom) == language.split()[0]
    assert _found(r"<grpc.version>(\d+\.\d+)\.0<", pom) == grpc.split()[1]
    assert _found(r"<protobuf.version>(.*)<", pom) == protobuf.split()[-1]
