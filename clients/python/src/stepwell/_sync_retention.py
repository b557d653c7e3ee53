"""Retention for programs without asyncio: that of `stepwell.retention`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from stepwell.retention import Retention
    from stepwell.sync import Loop


class SyncRetention:
    """What removes a client's runs; `client.retention`."""

    def __init__(self, loop: Loop, inner: Retention) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def delete(self, run_id: str = "", *, workflow_id: str = "", force: bool = False) -> bool:
        """Deletes a run that has ended, with all that is its own. False if there was none.

        With `force` (default: not) an open run is terminated first. Raises `RunNotEnded`, `RunBusy`, `InvalidField`.
        """
        return self._loop.call(self._inner.delete(run_id, workflow_id=workflow_id, force=force))

    def clean_up(
        self,
        ended_before: datetime,
        *,
        filter: str = "",  # noqa: A002 - the protocol's word
        dry_run: bool = False,
    ) -> Iterator[int]:
        """Deletes runs that ended before a time (with its zone), a part at a time, and gives how many went with each.

        `filter` is as in `list_runs` (default: all); with `dry_run` nothing goes, and the counts are what would. Raises
        `InvalidField`, `NamespaceNotFound`.
        """
        return self._loop.iterate(self._inner.clean_up(ended_before, filter=filter, dry_run=dry_run), at_once=1)
