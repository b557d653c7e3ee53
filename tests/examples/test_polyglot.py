"""The demo in three languages is a test: what it claims at its end must hold, and it must notice what does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "polyglot" / "demo.py"


def _play(**environment: str) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, "COLUMNS": "200", **environment}
    command = [sys.executable, str(DEMO)]
    return subprocess.run(command, env=everything, capture_output=True, text=True, timeout=230, check=False)


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            said = f"{program} is not here to build a worker of the demo"
            if os.environ.get("CI"):
                pytest.fail(said)
            pytest.skip(said)


# Builds what is not Python when its sources are new: a minute, at most.
@pytest.mark.timeout(240)
def test_three_languages_have_one_trace_though_a_worker_is_killed() -> None:
    """The demo's own checks decide; what they look at is seen in its tree."""
    _need("go", "node", "npm")
    done = _play()
    assert done.returncode == 0, done.stdout + done.stderr
    for told in (
        "kill -9 the worker in Go",
        "killed with its worker",
        "activity count polyglot-python",
        "activity pack polyglot-go",
        "activity page polyglot-typescript",
        "everything adds up",
    ):
        assert told in done.stdout, done.stdout


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Nothing is started then."""
    done = _play(PATH=str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    for wanted in ("Go 1.24 or later", "Node.js 20 or later", "npm"):
        assert f"install {wanted}" in done.stdout


def test_the_worker_in_go_is_formatted_and_vetted() -> None:
    """As the client is."""
    _need("go")
    for command in (("gofmt", "-l", "."), ("go", "vet", ".")):
        folder = DEMO.parent / "go"
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
