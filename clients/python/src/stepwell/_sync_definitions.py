"""A client's definitions, for programs without asyncio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from stepwell.sync import Loop
    from stepwell.v1 import definitions_pb2
    from stepwell.workflow_definitions import DefinitionFields, DefinitionFilter, Definitions


class SyncDefinitions:
    """As `stepwell.workflow_definitions.Definitions`, whose calls return when they are done."""

    def __init__(self, loop: Loop, inner: Definitions) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def create(
        self, code: str, *, version: int = 0, definition_id: str = "", **fields: Unpack[DefinitionFields]
    ) -> definitions_pb2.Definition:
        """Makes a version of a definition, by default the next. Raises `DefinitionExists`, `InvalidField`."""
        return self._loop.call(self._inner.create(code, version=version, definition_id=definition_id, **fields))

    def get(
        self, code: str = "", version: int = 0, *, definition_id: str = "", active_only: bool = False
    ) -> definitions_pb2.Definition:
        """Reads a definition with its body. Raises `DefinitionNotFound`."""
        return self._loop.call(self._inner.get(code, version, definition_id=definition_id, active_only=active_only))

    def list(self, **only: Unpack[DefinitionFilter]) -> Iterator[definitions_pb2.Definition]:
        """Lists definitions by code and version, without their bodies unless `with_bodies`."""
        return self._loop.iterate(self._inner.list(**only))

    def versions(self, code: str, *, with_bodies: bool = False) -> Iterator[definitions_pb2.Definition]:
        """Lists the versions of a code, the latest first."""
        return self._loop.iterate(self._inner.versions(code, with_bodies=with_bodies))

    def search(self, text: str, *, with_bodies: bool = False) -> Iterator[definitions_pb2.Definition]:
        """Lists definitions whose name or code holds a text, in upper or lower case alike."""
        return self._loop.iterate(self._inner.search(text, with_bodies=with_bodies))

    def update(
        self,
        code: str = "",
        version: int = 0,
        *,
        definition_id: str = "",
        expected_revision: int = 0,
        **fields: Unpack[DefinitionFields],
    ) -> definitions_pb2.Definition:
        """Changes what is given. Raises `DefinitionNotFound`, `DefinitionChanged`, `InvalidField`."""
        return self._loop.call(
            self._inner.update(
                code, version, definition_id=definition_id, expected_revision=expected_revision, **fields
            )
        )

    def delete(self, code: str = "", version: int = 0, *, definition_id: str = "") -> int:
        """Deletes a version, or all versions of a code, and tells how many. Raises `DefinitionInUse`."""
        return self._loop.call(self._inner.delete(code, version, definition_id=definition_id))

    def activate(self, code: str = "", version: int = 0, *, definition_id: str = "") -> bool:
        """Makes a version, or all versions of a code, active. False if there is none."""
        return self._loop.call(self._inner.activate(code, version, definition_id=definition_id))

    def deactivate(self, code: str = "", version: int = 0, *, definition_id: str = "") -> bool:
        """Makes a version, or all versions of a code, inactive. False if there is none."""
        return self._loop.call(self._inner.deactivate(code, version, definition_id=definition_id))

    def code(self, code: str) -> definitions_pb2.GetDefinitionCodeResponse:
        """Tells whether there is a code, its latest version, and the next one as it is now."""
        return self._loop.call(self._inner.code(code))
