"""Definitions: workflows as data, in versions. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from stepwell_server.model import filters

# The next one is told as an int32, too.
GREATEST_VERSION = 2**31 - 2


class Definition(msgspec.Struct, frozen=True, gc=False):
    """A row of `definitions`, but for its key. The payloads are packed; None where they were not asked for."""

    namespace_id: int
    definition_id: UUID
    code: str
    version: int
    name: str
    description: str
    active: bool
    revision: int
    create_time: datetime
    update_time: datetime
    metadata: bytes | None = None
    body: bytes | None = None


class DefinitionRef(msgspec.Struct, frozen=True, gc=False):
    """Which definition is meant: by its id, or by its code, in a version or (0) the latest. What is given must fit."""

    definition_id: UUID | None = None
    code: str = ""
    version: int = 0

    @property
    def label(self) -> str:
        """How the caller named it."""
        if self.definition_id is not None:
            return str(self.definition_id)
        return f"{self.code} {self.version}" if self.version else self.code


class Code(msgspec.Struct, frozen=True, gc=False):
    """What is known of a code: how many versions it has, and the greatest; 0 for none."""

    versions: int
    latest: int


LISTED: filters.Fields = {
    "definition_id": filters.ID,
    "code": filters.SORTED_TEXT,
    "version": filters.SORTED_NUMBER,
    "name": filters.SORTED_TEXT,
    "description": filters.TEXT,
    "active": filters.FLAG,
    "revision": filters.SORTED_NUMBER,
    "create_time": filters.SORTED_TIME,
    "update_time": filters.SORTED_TIME,
}
"""By what lists of definitions are filtered and sorted."""
