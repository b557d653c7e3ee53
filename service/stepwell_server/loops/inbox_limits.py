"""Tells the SQL functions the limits that this server is set to, so that they refuse what its calls refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop
from stepwell_server.store import inbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.settings import Limits


class InboxLimits(Loop):
    """Writes them when it begins to lead, and again if another leader has written others."""

    name = "inbox limits"

    def __init__(
        self,
        connection: SharedConnection,
        limits: Limits,
        seconds: float,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._limits = limits

    async def run_once(self) -> int:
        """Answers 1 if they were others."""
        async with self._connection.use() as connection:
            return await inbox.set_limits(connection, self._limits.id_bytes, self._limits.payload_bytes)
