"""The course of it: all started, load and faults side by side, all healed, waited for, judged, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from stepwell.client import Client
from stepwell.torture import recorded
from stepwell.torture.absences import absences_of
from stepwell.torture.faults import Fault, Kind, Storm
from stepwell.torture.holders import Holders
from stepwell.torture.ledger import read
from stepwell.torture.load import Load
from stepwell.torture.plan import Plan, Times
from stepwell.torture.proxy import Link, Proxy
from stepwell.torture.report import Report, report_on
from stepwell.torture.service import OwnService, Service
from stepwell.torture.verdict import judge
from stepwell.torture.workers import Seat, seated

if TYPE_CHECKING:
    from stepwell.torture.ledger import Line

_CALL_SECONDS = 120.0
_TELL_SECONDS = 0.5
# How long a worker has, once all is healed, until it does something.
_ROLL_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """How far it is: what is going on, how many things were started and have ended, and how many faults there were."""

    phase: str
    started: int = 0
    ended: int = 0
    faults: int = 0
    seconds_left: float = 0.0


Told = Callable[[State], None]


async def torture(plan: Plan, told: Told = lambda _: None, stop: asyncio.Event | None = None) -> Report:
    """Does all of it; `told` hears now and then how far it is, `stop` ends load and faults before their time.

    Raises `TortureError`, `ServiceError`. Whatever happens, nothing that was started is left.
    """
    told(State("starting"))
    async with (
        _service(plan) as service,
        Proxy(lambda: service.places, lambda: "client") as way,
        await _connected(plan, way) as client,
    ):
        times = await _times(plan, client, service)
        # Nobody else's workers take from it.
        queue = f"torture-{plan.seed}-{int(time.time())}"
        seats = _seats(plan, queue)
        async with seated(seats, service):
            return await _Scene(plan, times, queue, seats, service, client, way, told, stop or asyncio.Event()).play()


async def _connected(plan: Plan, way: Proxy) -> Client:
    return await Client.connect(
        f"127.0.0.1:{way.port}",
        namespace=plan.namespace,
        api_key=plan.api_key or None,
        tls=False,
        call_timeout=_CALL_SECONDS,
    )


@contextlib.asynccontextmanager
async def _service(plan: Plan) -> AsyncIterator[Service]:
    if plan.address:
        yield Service.at(plan.address)
        return
    own = OwnService(plan.folder, plan.replicas, Times.of(plan.session_seconds))
    try:
        await own.start()
        yield own
    finally:
        await own.close()


async def _times(plan: Plan, client: Client, service: Service) -> Times:
    if isinstance(service, OwnService):
        return Times.of(plan.session_seconds)
    async with await client.open_session("torture", task_queues="torture", activity_types=["none"]) as session:
        # It does not tell such a session how often to beat; by default it is each third of its time.
        return Times(session.ttl, session.ttl / 3)


def _seats(plan: Plan, queue: str) -> list[Seat]:
    variables = {"STEPWELL_NAMESPACE": plan.namespace, "STEPWELL_TASK_QUEUE": queue}
    if plan.api_key:
        variables["STEPWELL_API_KEY"] = plan.api_key
    commands = [command for _ in range(plan.workers_each) for command in plan.workers]
    return [Seat(number, command, plan.folder, variables) for number, command in enumerate(commands, 1)]


@dataclasses.dataclass(slots=True)
class _Scene:
    """Everything stands, and it begins."""

    plan: Plan
    times: Times
    queue: str
    seats: list[Seat]
    service: Service
    client: Client
    way: Proxy
    told: Told
    stop: asyncio.Event

    async def play(self) -> Report:
        plan, own = self.plan, self.service if isinstance(self.service, OwnService) else None
        name = f"{plan.seed}"
        load = Load(self.client, _dice(plan, "load"), name, self.queue, plan)
        storm = Storm(
            _dice(plan, "faults"), plan.fault_pause, self.times.session, self.seats, self.way, own, plan.kinds
        )
        holders = Holders(self.client, self.queue)
        looking = asyncio.create_task(holders.look_on())
        began = time.time()
        try:
            await self._rage(load, storm)
            self._tell("healing", load, storm)
            await storm.heal()
            troubles = [f"replica {number} ended by itself" for number in own.fallen()] if own else []
            if await self._settle(load, storm):
                troubles += await self._missing(load, storm)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await storm.close()
            await load.close()
        self._tell("judging", load, storm)
        return await self._judged(load, storm, holders, troubles, time.time() - began)

    async def _rage(self, load: Load, storm: Storm) -> None:
        until = time.monotonic() + self.plan.seconds
        raging = [asyncio.create_task(work) for work in (load.run(until), storm.run(until))]
        stopped = asyncio.create_task(_came(self.stop))
        try:
            while not stopped.done() and not all(task.done() for task in raging):
                await asyncio.wait([stopped], timeout=_TELL_SECONDS)
                for task in raging:
                    if task.done():
                        task.result()
                self._tell("raging", load, storm, max(0.0, until - time.monotonic()))
        finally:
            for task in (*raging, stopped):
                task.cancel()
            await asyncio.gather(*raging, stopped, return_exceptions=True)

    async def _settle(self, load: Load, storm: Storm) -> bool:
        end = time.monotonic() + self.plan.settle_seconds
        while (left := end - time.monotonic()) > 0:
            if await load.settled(min(left, _TELL_SECONDS)):
                return True
            self._tell("waiting for all to end", load, storm, left)
        return False

    async def _missing(self, load: Load, storm: Storm) -> list[str]:
        """Calls the roll: others do the work of a worker that hangs, so that nothing else would tell of it."""
        end = time.monotonic() + _ROLL_SECONDS
        before = len(load.starts)
        missing = self.seats
        while missing and (left := end - time.monotonic()) > 0:
            self._tell("calling the roll", load, storm, left)
            await load.call_the_roll(len(self.seats), self.plan.settle_seconds)
            called = {start.key for start in load.starts[before:]}
            missing = [seat for seat in missing if not any(line.key in called for line in seat.lines())]
        return [
            f"worker {seat.worker} did nothing for {_ROLL_SECONDS:.0f} s at the end: {seat.command}" for seat in missing
        ]

    async def _judged(self, load: Load, storm: Storm, holders: Holders, troubles: list[str], seconds: float) -> Report:
        on_record = await recorded.read(self.client, self.queue)
        known = {each.id for each in on_record}
        open_ones = [each for each in load.starts if each.id in known and not each.ended]
        reasons = await recorded.explained(self.client, open_ones)
        lines: list[Line] = []
        for seat in self.seats:
            for worker, path in seat.ledgers.items():
                lines += read(path, worker)
        faults = sorted([*storm.faults, *self._crashes(len(storm.faults))], key=lambda fault: fault.begin)
        links = [link for seat in self.seats for link in seat.proxy.links]
        _keep(self.plan, faults, links)
        verdict = judge(load.starts, lines, on_record, reasons, absences_of(faults, links, self.times), self.times)
        verdict.troubles += troubles + [fault.problem for fault in faults if fault.problem]
        return report_on(self.plan, seconds, load.starts, lines, on_record, faults, holders.counts, verdict)

    def _crashes(self, count: int) -> list[Fault]:
        crashes = [crash for seat in self.seats for crash in seat.crashes]
        return [
            Fault(
                count + number,
                Kind.WORKER_CRASHED,
                crash.worker,
                crash.time,
                crash.time,
                f"worker {crash.worker} ended by itself, with {crash.code}: see {crash.log}",
            )
            for number, crash in enumerate(crashes, 1)
        ]

    def _tell(self, phase: str, load: Load, storm: Storm, left: float = 0.0) -> None:
        ended = sum(1 for start in load.starts if start.ended)
        self.told(State(phase, len(load.starts), ended, len(storm.faults), left))


def _keep(plan: Plan, faults: Sequence[Fault], links: Sequence[Link]) -> None:
    """Leaves what was noted beside the ledgers, for whoever looks into a finding."""
    noted = {
        "faults": [dataclasses.asdict(each) for each in faults],
        "links": [dataclasses.asdict(each) for each in links],
    }
    (plan.folder / "faults.json").write_text(json.dumps(noted, indent=1, default=str))


async def _came(event: asyncio.Event) -> None:
    await event.wait()


def _dice(plan: Plan, of: str) -> random.Random:
    return random.Random(f"{plan.seed} {of}")
