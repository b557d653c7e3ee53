"""A stand: a database of its own; services, workers and loads in processes of their own, measured as they work."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.checks import CheckError, Expected, check
from bench.ground import Ground
from bench.meters import Wal, counter, cpu_seconds
from bench.processes import Process
from bench.programs import TYPES
from stepwell_server.store.migrations import migrate

STEPS = {"one_activity": 1, "timed": 1, "three_steps": 3}
_READY_SECONDS, _DRAIN_SECONDS = 60.0, 180.0
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Crew:
    """Workers in one process: of a namespace, with so many slots each, at one of the replicas.

    `resident` runs that wait stay in a worker's memory.
    """

    namespace: str = "main"
    slots: int = 2_000
    resident: int = 2_000
    workers: int = 1
    replica: int = 0


@dataclass(frozen=True)
class Measured:
    """What came of one load, in the time that counts. Processor time is in microseconds for each that was completed."""

    rate: float
    cpu: dict[str, float]
    statements: float
    wal: Wal | None
    counted: int
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def cpu_all(self) -> float:
        """Of all processes."""
        return sum(self.cpu.values())


class Stand:
    """One of them. What its loads begin is remembered, to be compared with the database."""

    def __init__(self, ground: Ground, url: str) -> None:
        self.ground = ground
        self.url = url
        self.services: list[Process] = []
        self.workers: list[Process] = []
        self.loads: list[Process] = []
        self.addresses: list[str] = []
        self.key = ""
        self.expected = Expected()
        self.metrics: list[str] = []

    async def closed(
        self, what: str, *, callers: int, seconds: float, warm: float = 2.0, size: int = 100, wal: bool = False
    ) -> Measured:
        """Loads by a closed loop."""
        command = {"do": "closed", "what": what, "callers": callers, "warm": warm, "seconds": seconds, "bytes": size}
        return await self.measure(command, wal=wal)

    async def open(self, what: str, *, rate: float, seconds: float, warm: float = 2.0, load: int = 0) -> Measured:
        """Loads by an open loop."""
        command = {"do": "open", "what": what, "rate": rate, "warm": warm, "seconds": seconds}
        return await self.measure(command, load=load)

    async def measure(self, command: dict[str, Any], *, load: int = 0, wal: bool = False) -> Measured:
        """Has a load do something, and reads the meters where the time that counts begins and ends."""
        process = self.loads[load]
        await process.send(command)
        await process.hear("opened", command["warm"] + _READY_SECONDS)
        since, before, asked = await self.ground.position(), self._cpu(), await self._statements()
        closed = await process.hear("closed", command["seconds"] + _DRAIN_SECONDS)
        until, after, statements = await self.ground.position(), self._cpu(), await self._statements() - asked
        told = await process.hear("done", _DRAIN_SECONDS)
        self.expect(command["what"], told)
        counted = max(1, closed["counted"])
        return Measured(
            rate=closed["counted"] / closed["seconds"],
            cpu={name: (after[name] - before[name]) / counted * 1e6 for name in after},
            statements=statements / counted,
            wal=await self.ground.wal(since, until) if wal else None,
            counted=closed["counted"],
            told=told,
        )

    async def do(self, command: dict[str, Any], *, load: int = 0, seconds: float = 600.0) -> dict[str, Any]:
        """Has a load do something that is not measured from here."""
        await self.loads[load].send(command)
        return await self.loads[load].hear("done", seconds)

    def expect(self, what: str, told: dict[str, Any]) -> None:
        """Remembers what a load began. Raises `CheckError` if it was not answered as it should."""
        if told["wrong"] or told["errors"] or told["completed"] != told["started"]:
            raise CheckError(f"the load of {what} was not answered well: {told}")
        if what == "jobs":
            self.expected.jobs += told["started"]
        else:
            kind = TYPES.get(what, what)
            self.expected.add_runs(kind, told["started"], told["started"] * STEPS[kind])

    async def check(self) -> None:
        """Compares all that was begun with the database."""
        await check(self.url, self.expected)

    def _cpu(self) -> dict[str, float]:
        used = {
            name: sum(cpu_seconds(each.pid) for each in processes)
            for name, processes in (("service", self.services), ("worker", self.workers), ("load", self.loads))
        }
        return used | {"postgres": self.ground.cpu_seconds()}

    async def _statements(self) -> float:
        read = [asyncio.to_thread(counter, each, "stepwell_statements_total") for each in self.metrics]
        return sum(await asyncio.gather(*read))

    async def start_service(self, sampled: float) -> Process:
        """Starts one more replica, and waits until it serves."""
        port, metrics_port = free_port(), free_port()
        environment = {
            "STEPWELL_DATABASE_URL": self.url,
            "STEPWELL_PORT": str(port),
            "STEPWELL_METRICS_PORT": str(metrics_port),
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(sampled),
        }
        self.services.append(await self._start("service", ["-m", "bench.serve"], environment))
        self.addresses.append(f"127.0.0.1:{port}")
        self.metrics.append(f"127.0.0.1:{metrics_port}")
        return self.services[-1]

    async def start_crew(self, crew: Crew, *, seconds: float = _READY_SECONDS) -> Process:
        """Starts workers, and waits until they have connected."""
        options = ["--address", self.addresses[crew.replica], "--namespace", crew.namespace]
        options += ["--slots", str(crew.slots), "--resident", str(crew.resident), "--workers", str(crew.workers)]
        self.workers.append(await self._start("worker", ["-m", "bench.work", *options], {"STEPWELL_API_KEY": self.key}))
        await self.workers[-1].hear("ready", seconds)
        return self.workers[-1]

    async def start_load(self, namespace: str) -> Process:
        """Starts a load of a namespace, over all replicas in turn."""
        options = [word for each in self.addresses for word in ("--address", each)]
        command = ["-m", "bench.load", *options, "--namespace", namespace]
        self.loads.append(await self._start("load", command, {"STEPWELL_API_KEY": self.key}))
        await self.loads[-1].hear("ready", _READY_SECONDS)
        return self.loads[-1]

    async def _start(self, name: str, command: list[str], environment: dict[str, str]) -> Process:
        search = {"PYTHONPATH": str(_ROOT)}
        log = self.ground.folder / f"{name}.log"
        return await Process.start(name, [sys.executable, *command], log, environment | search)


@asynccontextmanager
async def standing(
    ground: Ground,
    *,
    replicas: int = 1,
    crews: Sequence[Crew] = (Crew(),),
    loads: Sequence[str] = ("main",),
    sampled: float = 0.01,
    url: str = "",
) -> AsyncIterator[Stand]:
    """Starts a stand on a database of its own, or on one that is there; ends all of it."""
    async with AsyncExitStack() as ending:
        if not url:
            url = await ground.new_database("stand")
            ending.push_async_callback(ground.drop_database, url)
            await migrate(url)
        stand = Stand(ground, url)
        ending.push_async_callback(_stop, stand)
        stand.key = await new_key(ground, url)
        for _ in range(replicas):
            await stand.start_service(sampled)
        for namespace in loads:
            await stand.start_load(namespace)
        for crew in crews:
            await stand.start_crew(crew)
        yield stand


async def new_key(ground: Ground, url: str) -> str:
    """Makes an admin's API key in the database, as an operator does."""
    program = Path(sys.executable).with_name("stepwell-server")
    command = [str(program), "keys", "create", "--role", "admin", "--output", "json"]
    process = await Process.start("keys", command, ground.folder / "keys.log", {"STEPWELL_DATABASE_URL": url})
    try:
        return str(json.loads(await process.output(_READY_SECONDS))["secret"])
    finally:
        await process.stop()


def free_port() -> int:
    """A port of the loopback address that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def _stop(stand: Stand) -> None:
    for processes in (stand.loads, stand.workers, stand.services):
        await asyncio.gather(*(each.stop() for each in processes))
