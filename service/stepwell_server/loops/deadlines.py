"""Deadlines: what time does to runs. Delayed starts, deadlines, the patience of cancellation policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.runs import LookAtRun
from stepwell_server.loops.timers import Firing
from stepwell_server.model.runs import RunRef
from stepwell_server.store import timers

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.timers import Due


class Deadlines(Firing):
    """Looks at runs whose time has come."""

    name = "deadlines"

    async def read(self, connection: Connection, now: datetime, most: int) -> list[Due]:
        return await timers.read_due_runs(connection, now, most)

    async def read_next(self, connection: Connection, now: datetime) -> datetime | None:
        return await timers.next_run_after(connection, now)

    def order(self, due: Due) -> Order:
        return LookAtRun(RunRef(due.namespace_id, "", due.run_key))
