"""Who is live: the workers of a namespace, read a few times a second at most for all who ask."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy import select

from stepwell_server.model.workers import Crew, unpack_hello
from stepwell_server.store.schema import SESSIONS

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.store.database import Database

_FRESH_SECONDS = 0.1
_MOST_WORKERS = 10_000


class Crews:
    """See the module. `clock` is the one that sessions live by."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._pool = database.pool
        self._clock = clock
        self._known: dict[int, tuple[float, Crew]] = {}
        self._asked: dict[int, asyncio.Task[Crew]] = {}

    async def of(self, namespace_id: int) -> Crew:
        """The live workers of a namespace, of very many those who registered last."""
        now = time.monotonic()
        known = self._known.get(namespace_id)
        if known is not None and now < known[0] + _FRESH_SECONDS:
            return known[1]
        asked = self._asked.get(namespace_id)
        if asked is None:
            asked = self._asked[namespace_id] = asyncio.create_task(self._read(namespace_id))
            asked.add_done_callback(lambda _: self._asked.pop(namespace_id, None))
        # One caller's end must not be another's.
        return await asyncio.shield(asked)

    async def _read(self, namespace_id: int) -> Crew:
        now = time.monotonic()
        query = (
            select(SESSIONS.c.session_id, SESSIONS.c.hello)
            .where(SESSIONS.c.namespace_id == namespace_id, SESSIONS.c.expire_time > self._clock.now())
            .order_by(SESSIONS.c.register_time.desc())
            .limit(_MOST_WORKERS)
        )
        async with self._pool.begin() as connection:
            rows = (await connection.execute(query)).all()
        crew = Crew({session_id: unpack_hello(hello) for session_id, hello in rows})
        self._known = {each: known for each, known in self._known.items() if now < known[0] + _FRESH_SECONDS}
        self._known[namespace_id] = (now, crew)
        return crew
