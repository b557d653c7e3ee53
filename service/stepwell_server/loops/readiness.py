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
# A failover may take so long: callers of a server that is out of sight would not even hear to wait.
_LOOKS_WITHOUT_DATABASE = 6


class Readiness(Loop):
    """Looks at the schema's window, often until it suits and then now and then; tells of every change.

    Before it is ready, it sees whether the addresses that are set lead where they must (`check_pool`, and the check).

    A database that is away says nothing about the window: a server that was ready stays so, and its calls are refused
    as long as that lasts. Once it was not there at several looks in a row, `tell_database` hears so, and when it is
    back. `advice` is for callers of a server that is not ready: what to do about it.
    """

    name = "readiness"

    def __init__(
        self,
        settings: Settings,
        check_pool: Callable[[], Awaitable[None]],
        tell: Callable[[bool], Awaitable[None]],
        tell_database: Callable[[bool], None],
    ) -> None:
        super().__init__(settings.schema_check_seconds)
        self._settings = settings
        self._check_pool = check_pool
        self._tell = tell
        self._tell_database = tell_database
        self._misses = 0
        # Read once: what is installed over a running server is not what runs.
        self._server = len(migrations.shipped())
        self._told = ""
        self.is_ready = False
        self.advice = "it is starting"

    def pause(self, done: int) -> float:
        """Long once it is ready and the database there."""
        is_well = self.is_ready and not self._misses
        return self._settings.clock_align_seconds if is_well else super().pause(done)

    async def run_once(self) -> int:
        """One look."""
        try:
            window = await self._look()
        except Exception as error:
            if not self.is_ready:
                self._stand_by(error)
                return 0
            self._missed()
            raise translated(error) from error
        self._found()
        self.advice = "it is starting" if window.may_run else window.advice
        if window.may_run != self.is_ready:
            await self._tell(window.may_run)
            self.is_ready = window.may_run
        if not window.may_run:
            self._say(window.advice)
        return 1

    def _missed(self) -> None:
        self._misses += 1
        if self._misses == _LOOKS_WITHOUT_DATABASE:
            self._tell_database(False)  # noqa: FBT003 - what is told
            _log.error("database away", advice="until it is back, readiness is NOT_SERVING")

    def _found(self) -> None:
        if self._misses >= _LOOKS_WITHOUT_DATABASE:
            self._tell_database(True)  # noqa: FBT003 - likewise
            _log.info("database back")
        self._misses = 0

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
