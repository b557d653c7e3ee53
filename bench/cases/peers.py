"""Peers on the same Postgres, by fair recipes: each in an environment of its own, its best way of several counts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg

from bench.blocks import Bench, cpu_facts, rates
from bench.cases.capacity import CALLERS, SECONDS
from bench.checks import CheckError
from bench.figures import Figure, median, spread
from bench.processes import Process, ProcessError
from bench.stand import Measured, standing

_ROOT = Path(__file__).resolve().parents[2]
_SCRIPTS, _ENVIRONMENTS = _ROOT / "bench/peers", _ROOT / ".cache/bench"
_INSTALL_SECONDS, _MEASURE_SECONDS = 300.0, 240.0


@dataclass(frozen=True)
class Peer:
    """A peer: its script with the options of each way to run it, how its ends are counted, and our own load beside."""

    name: str
    script: str
    ways: tuple[tuple[str, ...], ...]
    jobs: int
    ends: str
    what: str


DBOS = Peer(
    "dbos",
    "dbos_runs.py",
    (("threads", "8"), ("tasks", "32")),
    0,
    "SELECT count(*) FROM dbos.workflow_status w WHERE status = 'SUCCESS' AND 3 = "
    "(SELECT count(*) FROM dbos.operation_outputs o WHERE o.workflow_uuid = w.workflow_uuid)",
    "three_steps",
)
PROCRASTINATE = Peer(
    "procrastinate",
    "procrastinate_jobs.py",
    (("50",),),
    4_000,
    "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
    "one_activity",
)
PGQUEUER = Peer(
    "pgqueuer",
    "pgqueuer_jobs.py",
    (("1", "100"), ("5", "100")),
    100_000,
    "SELECT count(DISTINCT job_id) FROM pgqueuer_log WHERE status = 'successful'",
    "jobs",
)


async def beside(peer: Peer, bench: Bench) -> list[Figure]:
    """Our load and the peer's in turn, each alone on the machine."""
    python = await _environment(peer, bench)

    async def ours() -> Measured:
        async with standing(bench.ground) as stand:
            seconds = bench.sizes.seconds(SECONDS)
            measured = await stand.closed(peer.what, callers=CALLERS, seconds=seconds)
            await stand.check()
        return measured

    measures: dict[str, Callable[[], Awaitable[Measured]]] = {"stepwell": ours}
    for way in peer.ways:
        measures[" ".join([peer.name, *way])] = partial(_measure, peer, way, python, bench)
    block = await bench.block(measures)
    found = {name: median(rates(measured)) for name, measured in block.measured.items()}
    best = max((name for name in found if name != "stepwell"), key=found.__getitem__)
    mine = rates(block.measured["stepwell"])
    details = {
        **block.facts,
        "best_way": best,
        "rates": found,
        "spread_of_peer": spread(rates(block.measured[best])),
        "cpu_us": {name: cpu_facts(block.measured[name]) for name in ("stepwell", best)},
        "all": mine,
    }
    ratio = median(mine) / found[best]
    return [Figure(peer.name, median(mine), "a second", ratio, found[best], spread(mine), details=details)]


async def _measure(peer: Peer, way: tuple[str, ...], python: Path, bench: Bench) -> Measured:
    url = await bench.ground.new_database(peer.name)
    amount = [str(bench.sizes.count(peer.jobs))] if peer.jobs else []
    timing = [] if peer.jobs else [str(bench.sizes.seconds(SECONDS))]
    command = [str(python), str(_SCRIPTS / peer.script), url, *amount, *way, *timing]
    before = bench.ground.cpu_seconds()
    process = await Process.start(peer.name, command, bench.ground.folder / f"{peer.name}.log", {})
    try:
        told = json.loads((await process.output(_MEASURE_SECONDS)).splitlines()[-1])
    finally:
        await process.stop()
    used = (bench.ground.cpu_seconds() - before) / told["done"] * 1e6
    ended = await _ended(url, peer)
    if ended != told["done"]:
        raise CheckError(f"{peer.name} says that it ended {told['done']}; {ended} are recorded")
    await bench.ground.drop_database(url)
    # Postgres' share is that of the whole script, for what was enqueued counts too.
    cpu = {"process": told["cpu_us"], "postgres": used}
    return Measured(rate=told["rate"], cpu=cpu, statements=0.0, wal=None, counted=told["done"])


async def _ended(url: str, peer: Peer) -> int:
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        ended: int = await connection.fetchval(peer.ends)
    finally:
        await connection.close()
    return ended


async def _environment(peer: Peer, bench: Bench) -> Path:
    """The interpreter of the peer's own environment, made when its list of packages is new."""
    wanted = _SCRIPTS / f"{peer.name}.txt"
    folder = _ENVIRONMENTS / f"{peer.name}-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]}"
    python, made = folder / "bin/python", folder / ".made"
    if not made.exists():
        bench.progress("makes its environment")
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(wanted)]
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], [str(python), *install]):
            log = bench.ground.folder / f"{peer.name}-install.log"
            process = await Process.start(f"pip of {peer.name}", command, log, {"VIRTUAL_ENV": ""})
            try:
                await process.output(_INSTALL_SECONDS)
            finally:
                await process.stop()
        made.touch()
    if not python.exists():
        raise ProcessError(f"{folder} has no interpreter: remove it")
    return python
