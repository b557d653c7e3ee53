"""Who leads: of all replicas of a deployment one, which alone performs the duties.

The leader holds a session-level advisory lock on a connection that does nothing else. Nobody needs to agree on a
time-out: the lock ends with the session, and Postgres ends the session of a leader that falls silent.

    follower --lock taken--> leader --probe late or failed--> follower (connection closed, duties stopped)

| what happens                              | what follows                                                       |
|-------------------------------------------|--------------------------------------------------------------------|
| the leader stops or dies                  | its session ends; another has the lock within a probe's interval   |
| its backend is killed                     | the next probe fails; it stops its duties and runs for it again    |
| it is frozen                              | Postgres drops its idle session after `leader_idle_seconds`        |
| it thaws                                  | its proof is too old: duties ask before each round, and do nothing |
| a pooler changes the backend under it     | the probe finds another backend; it resigns                        |
| the database takes no writes              | it resigns: nobody's beats are written, so nothing may expire      |

A proof counts from before it was asked for, and for less time than Postgres waits, so a leader stops believing in
itself before anybody else can be elected. What was under way at that moment may still commit. It does no harm: duties
change runs by commands that look again, so that two leaders could not either.
"""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import structlog

from stepwell_server.loops.loop import Loop
from stepwell_server.store import leaders
from stepwell_server.store.faults import Conflict, Lost, Rejected
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.settings import Settings
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

_log = structlog.get_logger("stepwell.leader")


class Term(msgspec.Struct, frozen=True):
    """An election won."""

    epoch: int
    backend: int
    began: float
    time: datetime


class Leader(Loop):
    """A replica's part in it. Duties, made with `may_run=leader.is_leading`, are given before the start."""

    name = "leader"

    def __init__(self, database: Database, clock: Clock, settings: Settings) -> None:
        super().__init__(settings.leader_probe_seconds)
        self._database = database
        self._clock = clock
        self._schema = settings.database_schema
        self._idle_seconds = settings.leader_idle_seconds
        # A proof is outdated a whole probe before Postgres would act on the silence.
        self._proof_seconds = settings.leader_idle_seconds - settings.leader_probe_seconds
        self._proven_until = 0.0
        self._connection: Connection | None = None
        self._elected = asyncio.Event()
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.duties: list[Loop] = []
        self.term: Term | None = None

    def is_leading(self) -> bool:
        """Whether this replica is the leader, and has proof of it that is not too old."""
        return self.term is not None and self._clock.monotonic() < self._proven_until

    def led_seconds(self) -> float:
        """For how long it has led without a break; the database was there all that time."""
        return self._clock.monotonic() - self.term.began if self.term is not None else 0.0

    def led_since(self) -> datetime | None:
        """Since when it leads, if it does."""
        return self.term.time if self.term is not None else None

    async def wait_elected(self) -> Term:
        """Returns once this replica leads."""
        while self.term is None:
            await self._elected.wait()
        return self.term

    async def stop(self) -> None:
        """Resigns, so that another can be elected at once."""
        await super().stop()
        await self._resign("stopped")

    async def run_once(self) -> int:
        """Tries to be elected, or proves that it still leads."""
        if self.term is not None and not self.is_leading():
            await self._resign("the last proof is too old")
        try:
            async with asyncio.timeout(self._proof_seconds):
                if self.term is None:
                    await self._run_for_leader()
                else:
                    await self._prove(self.term)
        except (Lost, Conflict, Rejected, TimeoutError) as error:
            await self._resign(str(error) or type(error).__name__)
        except asyncio.CancelledError:
            await self._resign("stopped")
            raise
        return int(self.is_leading())

    async def _run_for_leader(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = await self._database.connect(
                "leader", pinned=False, idle_session_seconds=self._idle_seconds
            )
        vote = await leaders.try_lock(connection, self._schema)
        if not vote.taken:
            return
        asked = self._clock.monotonic()
        epoch = await leaders.raise_epoch(connection, self.holder)
        self.term = Term(epoch, vote.backend, self._clock.monotonic(), self._clock.now())
        self._proven_until = asked + self._proof_seconds
        self._elected.set()
        metrics.leader.set(1)
        _log.info("elected", epoch=epoch, holder=self.holder)
        for duty in self.duties:
            duty.start()

    async def _prove(self, term: Term) -> None:
        if self._connection is None or self._connection.closed:
            raise Lost("the connection is closed")
        asked = self._clock.monotonic()
        proof = await leaders.probe(self._connection)
        if proof.backend != term.backend:
            raise Lost("another backend answers: the leader needs a direct connection, not a pooler's")
        if not proof.writable:
            raise Lost("the database takes no writes")
        self._proven_until = asked + self._proof_seconds

    async def _resign(self, reason: str) -> None:
        """First the duties, then the lock: there is never more than one that means to lead."""
        term, self.term = self.term, None
        self._elected.clear()
        if term is not None:
            metrics.leader.set(0)
            _log.warning("resigned", epoch=term.epoch, reason=reason)
            await asyncio.gather(*(duty.stop() for duty in self.duties))
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
