"""Namespaces without asyncio: the part of a client that is about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell import client
    from stepwell.policies import Seconds
    from stepwell.sync import Loop
    from stepwell.v1 import namespaces_pb2


class SyncNamespaceCalls:
    """See the module. What it stands on is the client's."""

    _loop: Loop
    _inner: client.Client

    def create_namespace(self, name: str) -> None:
        """Creates a namespace. Raises `NamespaceExists`, `InvalidField`."""
        self._loop.call(self._inner.create_namespace(name))

    def list_namespaces(self) -> Iterator[namespaces_pb2.Namespace]:
        """Lists all namespaces by name."""
        return self._loop.iterate(self._inner.list_namespaces())

    def get_namespace(self, name: str) -> namespaces_pb2.Namespace:
        """Reads a namespace: for how long runs are kept, and where they are archived. Raises `NamespaceNotFound`."""
        return self._loop.call(self._inner.get_namespace(name))

    def update_namespace(
        self, name: str, *, retention: Seconds | Literal["forever"] | None = None, archive_url: str | None = None
    ) -> namespaces_pb2.Namespace:
        """Changes for how many seconds ended runs are kept, and where they are archived ("": nowhere).

        What is not given stays. Raises `NamespaceNotFound`, `InvalidField`, `ArchivesNotSupported`.
        """
        return self._loop.call(self._inner.update_namespace(name, retention=retention, archive_url=archive_url))

    def delete_namespace(self, name: str) -> bool:
        """Deletes an empty namespace. False if there was none, or if it is `main`. Raises `NamespaceNotEmpty`."""
        return self._loop.call(self._inner.delete_namespace(name))
