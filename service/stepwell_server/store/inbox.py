"""What programs ask for in transactions of their own, and what of it could not be done."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, func, select, text

from stepwell_server.model.inbox import DeadLetter, InboxRow
from stepwell_server.store import requests
from stepwell_server.store.schema import DEAD_LETTERS, INBOX
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

STATEMENTS = load("inbox")
_MOST_COUNTED = 10_000
# Of one letter, beside what it carries.
_LETTER_BYTES = 2_048
_LARGEST = 2**63 - 1
# A letter keeps the number by which its program knows it.
_BRING_BACK = text("""
    WITH gone AS (
        DELETE FROM dead_letters WHERE number = :number AND namespace_id = :namespace_id RETURNING *
    )
    INSERT INTO inbox (
        number, namespace_id, namespace, verb, run_id, workflow_id, name, task_queue, priority, signal_id, token,
        payload, append_time
    )
    OVERRIDING SYSTEM VALUE
    SELECT
        g.number, g.namespace_id, g.namespace, g.verb, g.run_id, g.workflow_id, g.name, g.task_queue, g.priority,
        g.signal_id, g.token, g.payload, g.append_time
    FROM gone AS g
""")


class Standing(NamedTuple):
    """How much of a namespace's waits, up to a bound, and since when."""

    waiting: int
    is_more: bool
    oldest: datetime | None


async def read(connection: Connection, after: int, most: int) -> list[InboxRow]:
    """What waits, in the order of its numbers."""
    return [InboxRow(*row) for row in await connection.fetch(STATEMENTS["read_inbox"], after, most)]


async def bury(connection: Connection, letters: Sequence[tuple[int, str, str]], now: datetime) -> int:
    """Puts what can't be done among the dead letters: numbers, reasons and messages. Answers how many."""
    numbers, reasons, messages = ([each[place] for each in letters] for place in range(3))
    return len(await connection.fetch(STATEMENTS["bury_inbox"], numbers, reasons, messages, now))


async def prune(connection: Connection, before: datetime, most: int) -> int:
    """Forgets dead letters; answers how many."""
    return len(await connection.fetch(STATEMENTS["prune_dead_letters"], before, most))


async def set_limits(connection: Connection, id_bytes: int, payload_bytes: int) -> int:
    """Tells the functions what to refuse; answers 1 if that is new, else 0."""
    return len(await connection.fetch(STATEMENTS["set_inbox_limits"], id_bytes, payload_bytes))


async def standing(database: Database, namespace_id: int) -> Standing:
    """Counts what waits. Walks inbox_pkey."""
    table = INBOX.c
    waiting = select(table.append_time).where(table.namespace_id == namespace_id).limit(_MOST_COUNTED + 1).subquery()
    query = select(func.count(), func.min(waiting.c.append_time))
    async with database.pool.begin() as connection:
        count, oldest = (await connection.execute(query)).one()
    return Standing(min(count, _MOST_COUNTED), count > _MOST_COUNTED, oldest)


async def list_dead(
    database: Database, namespace_id: int, before: int | None, most: int, most_bytes: int
) -> tuple[list[DeadLetter], bool]:
    """Dead letters, newest first, fewer where they are large, and whether there are more.

    Walks dead_letters_namespace_idx.
    """
    table = DEAD_LETTERS.c
    size = func.coalesce(func.octet_length(table.payload), 0) + _LETTER_BYTES
    listed = (
        select(table.number, func.sum(size).over(order_by=table.number.desc()).label("total"), size.label("size"))
        .where(table.namespace_id == namespace_id, table.number < (_LARGEST if before is None else before))
        .order_by(table.number.desc())
        .limit(most + 1)
    ).subquery()
    fitting = (listed.c.total <= most_bytes) | (listed.c.total == listed.c.size)
    query = (
        select(DEAD_LETTERS, select(func.count()).select_from(listed).scalar_subquery())
        .join(listed, listed.c.number == table.number)
        .where(fitting)
        .order_by(table.number.desc())
        .limit(most)
    )
    async with database.pool.begin() as connection:
        rows = (await connection.execute(query)).all()
    return [DeadLetter(*row[:-1]) for row in rows], bool(rows) and len(rows) < rows[0][-1]


async def bring_back(database: Database, namespace_id: int, number: int, asked: Asked | None, now: datetime) -> bool:
    """Puts a dead letter back into the inbox under its number; false if there is none. Walks dead_letters_pkey."""
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, bool):
            return known
        found = await connection.execute(_BRING_BACK, {"number": number, "namespace_id": namespace_id})
        await requests.note(connection, asked, bool(found.rowcount), now)
    return bool(found.rowcount)


async def discard(database: Database, namespace_id: int, number: int, asked: Asked | None, now: datetime) -> bool:
    """Forgets a dead letter; false if there is none. Walks dead_letters_pkey."""
    table = DEAD_LETTERS.c
    gone = delete(DEAD_LETTERS).where(table.number == number, table.namespace_id == namespace_id)
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, bool):
            return known
        found = await connection.execute(gone)
        await requests.note(connection, asked, bool(found.rowcount), now)
    return bool(found.rowcount)
