"""The clients of other languages: each one's own test command, against the service of this tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools.conformance import alone

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "clients"
SERVER = Path(sys.executable).with_name("stepwell-server")
SECONDS = 540
RUST = {
    # What Cargo has built stays from one time to the next.
    "CARGO_TARGET_DIR": str(ROOT / ".cache/rust"),
    # Linted as it is compiled: `cargo clippy` would compile it all once more.
    "RUSTC_WORKSPACE_WRAPPER": "clippy-driver",
}


def _need(program: str) -> None:
    if shutil.which(program) is not None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not here to test its client")
    pytest.skip(f"{program} is not here to test its client")


def _run(folder: str, *command: str) -> None:
    environment = {**RUST, **os.environ, "STEPWELL_SERVER": str(SERVER), "CI": "1"}
    done = subprocess.run(
        command, cwd=CLIENTS / folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8_000:]


def _build(folder: str, *command: str) -> None:
    """What only computes lets those tests go first that wait for something."""
    _run(folder, "nice", "-n", "15", *command)


@pytest.mark.timeout(SECONDS + 30)
def test_go() -> None:
    """Also formatted, and free of what `go vet` finds."""
    _need("go")
    assert not _unformatted()
    _build("go", "go", "vet", ".", "./stepwelltest", "./conformance", "./examples/...")
    _build("go", "go", "test", "-run", "^$", "./...")
    _run("go", "go", "test", "-count=1", "./...")


@pytest.mark.timeout(SECONDS + 30)
def test_typescript() -> None:
    """Compiled strictly, by the tests' own command."""
    _need("npm")
    with alone("typescript"):
        _build("typescript", "npm", "ci", "--no-audit", "--no-fund")
        _run("typescript", "npm", "test")


@pytest.mark.timeout(SECONDS + 30)
def test_java() -> None:
    """Stubs made, compiled without a warning, formatted: all by the tests' own command."""
    _need("mvn")
    with alone("java"):
        _build("java", "mvn", "-q", "-B", "test-compile")
        _run("java", "mvn", "-q", "-B", "test")


@pytest.mark.timeout(SECONDS + 30)
def test_rust() -> None:
    """Also formatted, and free of what clippy finds."""
    _need("cargo")
    _build("rust", "cargo", "fmt", "--check")
    _build("rust", "cargo", "test", "--locked", "--quiet", "--no-run")
    _run("rust", "cargo", "test", "--locked", "--quiet")


def _unformatted() -> str:
    go = CLIENTS / "go"
    sources = sorted(str(path) for path in go.rglob("*.go") if path.parent != go / "stepwell/v1")
    command = ("gofmt", "-l", *sources)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
