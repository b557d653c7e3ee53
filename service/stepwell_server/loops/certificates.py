"""Looks at the files of TLS now and then: what issues certificates puts new ones there while the server runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable


class CertificateWatch(Loop):
    """Calls what looks, in a thread: the files may be on a network. Their failure is its own to tell."""

    name = "certificates"

    def __init__(self, look: Callable[[], bool], seconds: float) -> None:
        super().__init__(seconds)
        self._look = look

    async def run_once(self) -> int:
        """One look."""
        return int(await asyncio.to_thread(self._look))
