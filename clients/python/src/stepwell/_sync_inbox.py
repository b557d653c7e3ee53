"""The inbox for programs without asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.inbox import Inbox
    from stepwell.sync import Loop
    from stepwell.v1 import inbox_pb2


class SyncInbox:
    """A namespace's inbox; `client.inbox`."""

    def __init__(self, loop: Loop, inner: Inbox) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def describe(self) -> inbox_pb2.GetInboxResponse:
        """Tells how much waits, and since when. Raises `NamespaceNotFound`."""
        return self._loop.call(self._inner.describe())

    def dead_letters(self) -> Iterator[inbox_pb2.DeadLetter]:
        """Lists what was asked for and refused, newest first, with the reasons. Raises `NamespaceNotFound`."""
        return self._loop.iterate(self._inner.dead_letters())

    def retry(self, number: int) -> bool:
        """Has a dead letter dealt with again; false if there is none of that number. Raises `NamespaceNotFound`."""
        return self._loop.call(self._inner.retry(number))

    def discard(self, number: int) -> bool:
        """Forgets a dead letter; false if there is none of that number. Raises `NamespaceNotFound`."""
        return self._loop.call(self._inner.discard(number))
