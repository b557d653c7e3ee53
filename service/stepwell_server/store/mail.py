"""Mail that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from stepwell_server.model.mail import Mail
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.store.connection import Connection

MAIL = load("mail")


async def read_mail(connection: Connection, before: datetime, most: int) -> list[Mail]:
    """Mail that has waited since before a time, oldest first."""
    return [Mail(*row) for row in await connection.fetch(MAIL["read_mail"], before, most)]


async def delete_mail(connection: Connection, mail_ids: Sequence[UUID]) -> int:
    """Takes mail away that nobody can get any more."""
    return len(await connection.fetch(MAIL["delete_mail"], mail_ids))
