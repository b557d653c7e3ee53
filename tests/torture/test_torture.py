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
from typing import Any

import pytest
from tests.chaos.kit import until
from tests.stream.kit import replica

from stepwell.torture import Plan, Report, conductor, torture
from stepwell.torture.faults import Kind

WORKER = Path(__file__).resolve().parents[2] / "clients/python/conformance/worker.py"
BROKEN = Path(__file__).resolve().parents[1] / "clients/broken_worker.py"
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


@pytest.mark.timeout(200)
async def test_a_short_torture_ends_clean(folder: Path) -> None:
    """Two replicas, two workers, and everything that may befall them."""
    options = (
        "--worker",
        f"{sys.executable} {WORKER}",
        "--folder",
        str(folder),
        "--seconds",
        "10",
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


async def test_an_interrupted_torture_leaves_no_process(folder: Path, database_url: str) -> None:
    """At a service that is there: that goes on, and the workers end."""
    async with replica(database_url) as one:
        where = ("--address", one.service.address, "--folder", str(folder))
        command = await begun("--worker", f"{sys.executable} {WORKER}", *where, "--seconds", "300")
        await until(lambda: list(folder.glob("ledger-*")))
        assert processes_of(folder)
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


SHORT = {"session_seconds": 3.0, "heartbeat_seconds": 0.75, "ack_seconds": 1.0}


async def tortured(folder: Path, kinds: Iterable[Kind], **changes: Any) -> Report:
    """Only these faults, one soon after the other."""
    terms = {"seconds": 8.0, "settle_seconds": 20.0, "session_seconds": 3.0, "fault_pause": 0.8} | changes
    workers = terms.pop("workers", (f"{sys.executable} {WORKER}",))
    return await torture(Plan(workers=workers, folder=folder, seed=SEED, kinds=frozenset(kinds), **terms))


def assert_clean(report: Report) -> None:
    wrong = {name: found for name, found in report.findings.items() if found and name != "done twice, explained"}
    assert wrong == {}
    assert report.faults


async def test_a_worker_that_does_nothing_is_missed(
    folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though others do all the work."""
    monkeypatch.setattr(conductor, "_ROLL_SECONDS", 2.0)
    workers = (f"{sys.executable} {WORKER}", f"{sys.executable} {BROKEN} asks_for_nothing")
    async with replica(database_url, **SHORT) as one:
        terms = {"seconds": 2.0, "workers_each": 1, "address": one.service.address}
        verdict = (await tortured(folder, [Kind.CLIENT_CUT], workers=workers, **terms)).verdict
    assert [words.partition(" for ")[0] for words in verdict.troubles] == ["worker 2.1 did nothing"]
    assert verdict.lost + verdict.stuck + verdict.twice == []


@pytest.mark.long
async def test_workers_that_are_away(folder: Path, database_url: str) -> None:
    """Whose session is over has lost what it had, and changes nothing by what it says when it is heard again."""
    async with replica(database_url, **SHORT) as one:
        terms = {"effect_seconds": 6.0, "runs_per_second": 8.0, "workers_each": 3, "fault_pause": 1.5}
        kinds = [Kind.WORKER_FROZEN, Kind.WORKER_STALLED]
        assert_clean(await tortured(folder, kinds, address=one.service.address, **terms))


@pytest.mark.long
async def test_killed_workers(folder: Path, database_url: str) -> None:
    """What they had goes to others, not before their sessions are over."""
    async with replica(database_url, **SHORT) as one:
        assert_clean(await tortured(folder, [Kind.WORKER_KILLED], address=one.service.address))


@pytest.mark.long
async def test_cut_connections(folder: Path, database_url: str) -> None:
    """Sessions live on: what was at work stays so, and what was reported is heard."""
    terms = {"effect_seconds": 6.0, "runs_per_second": 8.0, "fault_pause": 0.6}
    kinds = [Kind.WORKER_CUT, Kind.CLIENT_CUT]
    async with replica(database_url, **SHORT) as one:
        assert_clean(await tortured(folder, kinds, address=one.service.address, **terms))


@pytest.mark.long
async def test_a_postgres_that_is_killed(folder: Path) -> None:
    """What was answered is on its disk."""
    terms = {"runs_per_second": 20.0, "effect_seconds": 0.5, "fault_pause": 0.5, "replicas": 1}
    assert_clean(await tortured(folder, [Kind.DATABASE_KILLED, Kind.DATABASE_STOPPED], **terms))
