"""Looks again at who has streams, on each replica: those of a key that was revoked, or of a token that is over, end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.api_keys import KnownKeys
    from stepwell_server.dispatch.callers import OpenStreams

_USE_SECONDS = 60.0


class KeyWatch(Loop):
    """Twice in the time for which a key is taken for what it was."""

    name = "api keys"

    def __init__(self, keys: KnownKeys, streams: OpenStreams, clock: Clock, seconds: float) -> None:
        super().__init__(seconds / 2)
        self._keys = keys
        self._streams = streams
        self._clock = clock
        self._noted = time.monotonic()

    async def run_once(self) -> int:
        """One look; once a minute, also which keys were used."""
        self._streams.end_expired(self._clock.now())
        looked = await self._keys.look_again()
        if time.monotonic() >= self._noted + _USE_SECONDS:
            await self._keys.note_use()
            self._noted = time.monotonic()
        return looked
