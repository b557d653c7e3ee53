"""How much of one worker's stream is under way: taken in and not answered, or answered and not read by the worker.

A stream that brings more than is answered is read no further until there is room, so that what it brings waits in its
sender, and not here; and its outbox has room for the answers to all that was read. The worker is not silent meanwhile,
as long as it is the service that has to answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell_server.dispatch.sessions import WorkerSession
    from stepwell_server.settings import Limits


class Intake:
    """See the module. `patience`: seconds after which a worker that has to wait counts as heard."""

    def __init__(self, session: WorkerSession, limits: Limits, patience: float) -> None:
        self._session = session
        # The next message may bring so many.
        self._most = max(0, min(limits.stream_items, session.outbox.most) - limits.message_items)
        self._patience = patience
        self._under_way = 0
        self._less = asyncio.Event()
        session.outbox.on_told = self._less.set

    def begin(self, count: int) -> None:
        """So many items came in."""
        self._under_way += count

    def end(self, count: int) -> None:
        """So many were answered."""
        self._under_way -= count
        self._less.set()

    async def room(self) -> None:
        """Waits until there is room for another message; not at all once the stream has ended."""
        session = self._session
        while self._under_way + session.outbox.untold > self._most and not session.outbox.closed:
            self._less.clear()
            try:
                async with asyncio.timeout(self._patience):
                    await self._less.wait()
            except TimeoutError:
                if self._under_way:
                    session.heard()
