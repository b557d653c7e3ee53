"""Bulk operations for programs without asyncio: those of `stepwell.bulk`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.bulk import Bulk, Part
    from stepwell.sync import Loop


class SyncBulk:
    """What steers all runs that a filter finds, newest first; `client.bulk`. See `stepwell.bulk.Bulk`."""

    def __init__(self, loop: Loop, inner: Bulk) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def cancel(self, filter: str, *, reason: str = "", dry_run: bool = False) -> Iterator[Part]:  # noqa: A002 - the protocol's word
        """Asks open runs to cancel."""
        return self._loop.iterate(self._inner.cancel(filter, reason=reason, dry_run=dry_run), at_once=1)

    def terminate(self, filter: str, *, reason: str = "", dry_run: bool = False) -> Iterator[Part]:  # noqa: A002 - likewise
        """Ends open runs at once."""
        return self._loop.iterate(self._inner.terminate(filter, reason=reason, dry_run=dry_run), at_once=1)

    def pause(self, filter: str, *, reason: str = "", dry_run: bool = False) -> Iterator[Part]:  # noqa: A002 - likewise
        """Stops work on open runs."""
        return self._loop.iterate(self._inner.pause(filter, reason=reason, dry_run=dry_run), at_once=1)

    def resume(self, filter: str, *, accept_order: bool = False, dry_run: bool = False) -> Iterator[Part]:  # noqa: A002 - likewise
        """Lets paused runs go on; `accept_order` is for those that paused because their code was changed."""
        return self._loop.iterate(self._inner.resume(filter, accept_order=accept_order, dry_run=dry_run), at_once=1)

    def signal(self, filter: str, name: str, value: object = None, *, dry_run: bool = False) -> Iterator[Part]:  # noqa: A002 - likewise
        """Sends open runs a signal, each once."""
        return self._loop.iterate(self._inner.signal(filter, name, value, dry_run=dry_run), at_once=1)

    def retry(self, filter: str, *, reason: str = "", dry_run: bool = False) -> Iterator[Part]:  # noqa: A002 - likewise
        """Lets runs that ended badly go on from their record."""
        return self._loop.iterate(self._inner.retry(filter, reason=reason, dry_run=dry_run), at_once=1)
