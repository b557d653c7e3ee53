"""Retention for programs without asyncio: that of `stepwell.retention`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from stepwell.retention import Retention
    from stepwell.sync import Loop
    from stepwell.v1.runs_pb2 import Run


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

    def archivable(
        self,
        ended_before: datetime,
        *,
        filter: str = "",  # noqa: A002 - the protocol's word
    ) -> Iterator[Run]:
        """Lists runs that ended before a time and were not archived, those that ended first going first.

        `filter` is as in `list_runs` (default: all). Raises `InvalidField`, `NamespaceNotFound`.
        """
        return self._loop.iterate(self._inner.archivable(ended_before, filter=filter))

    def archive(
        self,
        ended_before: datetime,
        *,
        filter: str = "",  # noqa: A002 - the protocol's word
        dry_run: bool = False,
    ) -> Iterator[int]:
        """Archives runs that ended before a time, a part at a time, and gives how many were with each.

        Each is written to the namespace's `archive_url`, and then its history is deleted. `filter` is as in `list_runs`
        (default: all); with `dry_run` nothing is written. Raises `ArchiveNotSet`, `ArchiveUnavailable`, `InvalidField`.
        """
        return self._loop.iterate(self._inner.archive(ended_before, filter=filter, dry_run=dry_run), at_once=1)

    def mark_archived(
        self, run_id: str = "", *, workflow_id: str = "", archive_uri: str, archive_time: datetime | None = None
    ) -> bool:
        """Notes where a run that has ended was archived, and deletes its history. False if there is no such run.

        `archive_time` is now unless given. Raises `RunNotEnded`, `RunBusy`, `InvalidField`.
        """
        marking = self._inner.mark_archived(
            run_id, workflow_id=workflow_id, archive_uri=archive_uri, archive_time=archive_time
        )
        return self._loop.call(marking)

    def prune_events(self, older_than: datetime, *, of: Literal["callers", "ended_runs"]) -> Iterator[int]:
        """Deletes events that are older than a time, a part at a time, and gives how many went with each.

        Of `callers`: what programs appended to runs. Of `ended_runs`: the histories of runs that ended before it, which
        can't be opened again. Raises `InvalidField`, `NamespaceNotFound`.
        """
        return self._loop.iterate(self._inner.prune_events(older_than, of=of), at_once=1)

    def export(self, run_id: str = "", *, workflow_id: str = "") -> Iterator[bytes]:
        """Gives a run as the JSON document that an archive holds, in parts to be put one behind the other.

        Raises `RunNotFound`. What breaks off in the middle is not taken up: begin again.
        """
        return self._loop.iterate(self._inner.export(run_id, workflow_id=workflow_id), at_once=1)
