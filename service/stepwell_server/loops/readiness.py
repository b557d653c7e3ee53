"""Whether this server may work on its database: it must be there, and its schema must be one for this server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from stepwell_server.loops.loop import Loop
from stepwell_server.store import migrations
from stepwell_server.store.directness import Misaddressed
from stepwell_server.store.faults import Lost, translated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell_server.settings import Settings

_log = structlog.get_logger("stepwell.readiness")


class Readiness(Loop):
    """Looks at the schema's window, often until it suits and then now and then; tells of every change.

    Before it is ready, it sees whether the addresses that are set lead where they must (`check_pool`, and the check).

    A database that is away says nothing about the window: a server that was ready stays so, and its calls are refused
    as long as that lasts. `advice` is for callers of a server that is not ready: what to do about it.
    """

    name = "readiness"

    def __init__(
        self,
        settings: Settings,
        check_pool: Callable[[], Awaitable[None]],
        tell: Callable[[bool], Awaitable[None]],
    ) -> None:
        super().__init__(settings.schema_check_seconds)
        self._settings = settings
        self._check_pool = check_pool
        self._tell = tell
        # Read once: what is installed over a running server is not what runs.
        self._server = len(migrations.shipped())
        self._told = ""
        self.is_ready = False
        self.advice = "it is starting"

    def pause(self, done: int) -> float:
        """Long once it is ready."""
        return self._settings.clock_align_seconds if self.is_ready else super().pause(done)

    async def run_once(self) -> int:
        """One look."""
        try:
            window = await self._look()
        except Exception as error:
            if not self.is_ready:
                self._stand_by(error)
                return 0
            raise translated(error) from error
        self.advice = "it is starting" if window.may_run else window.advice
        if window.may_run != self.is_ready:
            await self._tell(window.may_run)
            self.is_ready = window.may_run
        if not window.may_run:
            self._say(window.advice)
        return 1

    async def _look(self) -> migrations.Window:
        try:
            url = self._settings.direct_url() or ""
        except ValueError as error:
            raise Lost(str(error)) from None
        window = await migrations.check(url, schema=self._settings.database_schema, server=self._server)
        if window.may_run and not self.is_ready:
            await self._check_pool()
        return window

    def _stand_by(self, error: Exception) -> None:
        """Callers hear what to set, and what else the database says stays in the log."""
        if isinstance(error, Misaddressed):
            self.advice = str(error)
            self._say(self.advice)
            return
        self.advice = "its database can't be used, and its log says why"
        self._say(f"the database can't be used: {str(error) or type(error).__name__}")

    def _say(self, advice: str) -> None:
        """Once for each thing that is wrong."""
        if advice != self._told:
            self._told = advice
            _log.error("not ready", advice=advice)
