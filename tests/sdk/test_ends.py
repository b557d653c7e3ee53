"""The client on the oldest and on the newest versions of what it needs: imports, a run, a worker, against a server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.loops.rig import rig_settings

from stepwell_server.service import Service

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("one_run.py")
SECONDS = 60


@pytest.fixture
def environment(end: str) -> Path:
    """The Python of an environment that `make ends` has made."""
    folder = ROOT / ".cache/ends" / end
    if not (folder / ".ready").exists():
        if os.environ.get("CI"):
            pytest.fail(f"the environment of the {end} versions is missing: run `make ends`")
        pytest.skip(f"the environment of the {end} versions is missing; `make ends` makes it")
    return folder / "bin/python"


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """What the client's wheel holds, unpacked."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, f"--wheel-dir={tmp_path}", str(ROOT / "clients/python")], check=True)
    (wheel,) = tmp_path.glob("stepwell-*.whl")
    folder = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def locked(end: str) -> dict[str, str]:
    """The versions that a lock file names."""
    text = (ROOT / f"requirements-{end}.lock").read_text()
    return dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("end", ["lowest", "highest"])
async def test_the_client_at_an_end_of_its_range(
    end: str, environment: Path, distribution: Path, database_url: str
) -> None:
    """With warnings as errors, and nothing installed but what the client itself asks for."""
    async with Service(rig_settings(database_url)) as service, asyncio.timeout(SECONDS):
        variables = {"PYTHONPATH": str(distribution), "PATH": os.defpath}
        program = await asyncio.create_subprocess_exec(
            *(str(environment), "-W", "error", str(PROGRAM), service.address),
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said, complaints = await program.communicate()
    assert program.returncode == 0, complaints.decode()
    answer = json.loads(said)
    assert (answer["result"], answer["last"]) == (14, "RunCompleted")
    assert answer["modules"] > 60
    versions = locked(end)
    assert answer["versions"] == {name: versions[name] for name in answer["versions"]}


def test_the_lowest_versions_are_the_bounds_of_the_client() -> None:
    """The lock file names the very versions from which on the client says that it works."""
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "clients/python/pyproject.toml").read_text()))
    for name, version in locked("lowest").items():
        if name in bounds:
            assert version.removesuffix(".0") == bounds[name].removesuffix(".0")
    assert {"grpcio", "protobuf", "googleapis-common-protos"} <= set(bounds) & set(locked("lowest"))
