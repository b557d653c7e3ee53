"""Short tortures with workers in Python: they end clean, and leave nothing behind.

The longer ones are aimed: each at faults in which a certain guard matters. `tests/mutants/87*` take those guards out.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.chaos.kit import until

from stepwell.torture import Plan, Report, torture
from stepwell.torture.faults import Kind

WORKER = Path(__file__).resolve().parents[2] / "clients/python/conformance/worker.py"
SEED = 7


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that an unprivileged account can pass: root's Postgres runs as such."""
    made = Path(tempfile.mkdtemp(prefix="stepwell-torture-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def begun(*options: str) -> Process:
    program = "from stepwell.cli.main import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "torture", *options, stdout=PIPE, stderr=PIPE
    )


def processes_of(folder: Path) -> list[str]:
    """Those that write into it: workers, replicas and the Postgres."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            log = (process / "fd/2").readlink()
        except OSError:
            continue
        if log.is_relative_to(folder):
            found.append(process.name)
    return found


async def test_a_short_torture_ends_clean(folder: Path) -> None:
    """Two replicas, two workers, and everything that may befall them."""
    options = (
        "--worker",
        f"{sys.executable} {WORKER}",
        "--folder",
        str(folder),
        "--seconds",
        "12",
        "--session-seconds",
        "4",
        "--fault-seconds",
        "0.8",
        "--seed",
        str(SEED),
    )
    command = await begun(*options, "--settle-seconds", "60", "--output", "json")
    out, err = await command.communicate()
    assert command.returncode == 0, (out + err).decode()
    told = json.loads(out)
    assert told["clean"]
    assert told["seed"] == SEED
    counts = told["counts"]
    assert min(counts[name] for name in ("runs started", "jobs started", "effects begun", "faults")) > 0
    assert counts["ended"] == counts["runs started"] + counts["jobs started"]
    assert counts["effects begun"] >= counts["effects asked for"] > 0
    assert sum(told["faults"].values()) == counts["faults"]
    assert told["languages"]["python"]["effects"] == counts["effects begun"]
    assert processes_of(folder) == []


async def test_an_interrupted_torture_leaves_no_process(folder: Path) -> None:
    command = await begun("--worker", f"{sys.executable} {WORKER}", "--folder", str(folder), "--seconds", "300")
    async with asyncio.timeout(60):
        await until(lambda: list(folder.glob("ledger-*")))
        assert len(processes_of(folder)) > 4
        command.send_signal(signal.SIGINT)
        # Once more changes nothing: it is tidying.
        command.send_signal(signal.SIGINT)
        out, err = await command.communicate()
    assert command.returncode == 1, (out + err).decode()
    assert "interrupted" in err.decode()
    assert processes_of(folder) == []


async def test_it_says_what_it_needs(folder: Path) -> None:
    for options, words in (
        ((), "--worker"),
        (("--worker", "none", "--fault", "earthquake"), "worker-killed"),
        (("--worker", "none", "--address", "here"), "host:port"),
    ):
        command = await begun(*options, "--folder", str(folder))
        _, err = await command.communicate()
        assert command.returncode == 1
        assert words in err.decode()


async def tortured(folder: Path, kinds: Iterable[Kind], **changes: float) -> Report:
    """Only these faults, one soon after the other."""
    terms = {"seconds": 14.0, "settle_seconds": 12.0, "session_seconds": 3.0, "fault_pause": 0.8} | changes
    return await torture(
        Plan(workers=(f"{sys.executable} {WORKER}",), folder=folder, seed=SEED, kinds=frozenset(kinds), **terms)  # type: ignore[arg-type]
    )


def assert_clean(report: Report) -> None:
    wrong = {name: found for name, found in report.findings.items() if found and name != "done twice, explained"}
    assert wrong == {}
    assert report.faults


@pytest.mark.long
async def test_frozen_workers(folder: Path) -> None:
    """Who sleeps beyond its session and wakes has lost what it had, and changes nothing by what it says then."""
    assert_clean(await tortured(folder, [Kind.WORKER_FROZEN]))


@pytest.mark.long
async def test_killed_workers(folder: Path) -> None:
    """What they had goes to others, not before their sessions are over."""
    assert_clean(await tortured(folder, [Kind.WORKER_KILLED]))


@pytest.mark.long
async def test_cut_connections(folder: Path) -> None:
    """Sessions live on: what was at work stays so, and what was reported is heard."""
    assert_clean(await tortured(folder, [Kind.WORKER_CUT, Kind.CLIENT_CUT], fault_pause=0.3))


@pytest.mark.long
async def test_a_postgres_that_is_killed(folder: Path) -> None:
    """What was answered is on its disk."""
    assert_clean(await tortured(folder, [Kind.DATABASE_KILLED], runs_per_second=10.0))
