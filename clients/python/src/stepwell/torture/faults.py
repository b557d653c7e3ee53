"""What is done to whom, and when: chosen by a seed, noted with its beginning and its end, and always taken back."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import random
import signal
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.torture.proxy import Proxy
    from stepwell.torture.service import OwnService
    from stepwell.torture.workers import Seat

AT_ONCE = 3


class Kind(enum.StrEnum):
    """What is done."""

    WORKER_KILLED = "worker killed"
    WORKER_FROZEN = "worker frozen"
    WORKER_LEFT = "worker told to leave"
    WORKER_CRASHED = "worker ended by itself"
    WORKER_CUT = "worker's connections cut"
    WORKER_SEVERED = "worker cut off for a while"
    WORKER_STALLED = "worker's connections stalled"
    CLIENT_CUT = "client's connections cut"
    CLIENT_STALLED = "client's connections stalled"
    REPLICA_KILLED = "replica killed"
    REPLICA_FROZEN = "replica frozen"
    REPLICA_LEFT = "replica told to end"
    DATABASE_KILLED = "Postgres killed"
    DATABASE_STOPPED = "Postgres stopped at once"

    @property
    def word(self) -> str:
        """How it is asked for: `worker-killed`."""
        return self.name.lower().replace("_", "-")

    @property
    def noun(self) -> str:
        """What it is done to: `worker`, `client`, `replica` or `database`."""
        return self.name.partition("_")[0].lower()


_WEIGHTS = {
    Kind.WORKER_KILLED: 4,
    Kind.WORKER_FROZEN: 4,
    Kind.WORKER_LEFT: 1,
    Kind.WORKER_CUT: 4,
    Kind.WORKER_SEVERED: 3,
    Kind.WORKER_STALLED: 2,
    Kind.CLIENT_CUT: 2,
    Kind.CLIENT_STALLED: 1,
    Kind.REPLICA_KILLED: 3,
    Kind.REPLICA_FROZEN: 2,
    Kind.REPLICA_LEFT: 2,
    Kind.DATABASE_KILLED: 1,
    Kind.DATABASE_STOPPED: 1,
}
CHOSEN = tuple(_WEIGHTS)
"""Those that are done on purpose."""


@dataclasses.dataclass(slots=True)
class Fault:
    """One of them. `target` is a worker's name, a replica's number, `client` or `database`; `end` is when it was over.

    `problem` is what went wrong that should not have, such as a worker that did not leave in order.
    """

    number: int
    kind: Kind
    target: str
    begin: float
    end: float = float("inf")
    problem: str = ""


class Storm:
    """Faults, one after the other, at most `AT_ONCE` at a time."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        dice: random.Random,
        pause: float,
        session_seconds: float,
        seats: Sequence[Seat],
        client: Proxy,
        service: OwnService | None,
        kinds: Collection[Kind] = frozenset(Kind),
    ) -> None:
        """Without a `service` of our own, workers and connections are all that is hurt."""
        self.faults: list[Fault] = []
        self._dice = dice
        self._pause = pause
        self._session = session_seconds
        self._seats = {str(seat.number): seat for seat in seats}
        self._client = client
        self._service = service
        self._kinds = kinds
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None

    async def run(self, until: float) -> None:
        """Does its worst until a moment of the monotonic clock. Raises `TortureError` if one does not come back."""
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._dice.uniform(0.3, 1.7) * self._pause))
            if self._failed is not None:
                raise self._failed
            if len(self._tasks) < AT_ONCE and time.monotonic() < until:
                self._strike()

    async def heal(self) -> None:
        """Waits until all are as they were. Raises `TortureError`."""
        await asyncio.gather(*self._tasks)
        if self._failed is not None:
            raise self._failed

    async def close(self) -> None:
        """Gives up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _strike(self) -> None:
        kinds = [kind for kind in _WEIGHTS if kind in self._kinds and self._targets(kind)]
        if not kinds:
            return
        kind = self._dice.choices(kinds, [_WEIGHTS[each] for each in kinds])[0]
        target = self._dice.choice(self._targets(kind))
        short, long = self._dice.uniform(0.1, 0.6), self._dice.uniform(1.2, 1.8)
        seconds = self._session * self._dice.choice((short, long))
        self._busy.add(target)
        task = asyncio.create_task(self._struck(kind, target, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failed = self._failed or task.exception()

    def _targets(self, kind: Kind) -> list[str]:
        """Who may be struck so: nobody twice at a time, never all replicas, and Postgres only if all replicas stand."""
        if kind.noun == "worker":
            return [name for name, seat in self._seats.items() if name not in self._busy and seat.is_there]
        if kind.noun == "client":
            return [] if "client" in self._busy else ["client"]
        if self._service is None or "database" in self._busy:
            return []
        replicas = [f"replica {number}" for number in range(len(self._service.places))]
        struck = [name for name in replicas if name in self._busy]
        if kind.noun == "database":
            return [] if struck else ["database"]
        if len(struck) + 1 >= len(replicas):
            return []
        # Postgres would leave with its owner.
        first = 1 if kind is Kind.REPLICA_LEFT else 0
        return [name for name in replicas[first:] if name not in self._busy]

    async def _struck(self, kind: Kind, target: str, seconds: float) -> None:
        seat = self._seats.get(target)
        fault = Fault(len(self.faults) + 1, kind, seat.worker if seat else target.removeprefix("replica "), time.time())
        self.faults.append(fault)
        try:
            if seat is not None:
                await self._worker(fault, seat, seconds)
            elif kind.noun == "client":
                await _hold_up(self._client, kind is Kind.CLIENT_STALLED, seconds)
            elif self._service is not None:
                await self._service_struck(fault, self._service, seconds)
        finally:
            fault.end = min(fault.end, time.time())
            self._busy.discard(target)

    async def _worker(self, fault: Fault, seat: Seat, seconds: float) -> None:
        if fault.kind is Kind.WORKER_KILLED:
            await seat.kill()
            fault.end = time.time()
            await asyncio.sleep(seconds / 4)
            await seat.begin()
        elif fault.kind is Kind.WORKER_LEFT:
            if not await seat.leave():
                fault.problem = f"worker {fault.target} did not leave in order"
            fault.end = time.time()
            await seat.begin()
        elif fault.kind is Kind.WORKER_FROZEN:
            await _frozen(seat.send, seconds)
        elif fault.kind is Kind.WORKER_SEVERED:
            async with seat.proxy.severed():
                await asyncio.sleep(seconds)
        else:
            await _hold_up(seat.proxy, fault.kind is Kind.WORKER_STALLED, seconds)

    async def _service_struck(self, fault: Fault, service: OwnService, seconds: float) -> None:
        if fault.kind is Kind.DATABASE_KILLED:
            await service.strike_database(signal.SIGKILL)
        elif fault.kind is Kind.DATABASE_STOPPED:
            await service.strike_database(signal.SIGQUIT)
        else:
            number = int(fault.target)
            if number in service.fallen():
                fault.problem = f"replica {number} had ended by itself"
            if fault.kind is Kind.REPLICA_FROZEN:
                await _frozen(lambda what: service.send(number, what), seconds)
                return
            if fault.kind is Kind.REPLICA_KILLED:
                await service.kill(number)
            elif not await service.leave(number):
                fault.problem = f"replica {number} did not end in order"
            await asyncio.sleep(seconds / 4)
            await service.begin(number)


async def _frozen(send: Callable[[signal.Signals], None], seconds: float) -> None:
    send(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        send(signal.SIGCONT)


async def _hold_up(way: Proxy, is_stalled: bool, seconds: float) -> None:  # noqa: FBT001 - of two
    if not is_stalled:
        way.cut()
        return
    async with way.stalled():
        await asyncio.sleep(seconds)
