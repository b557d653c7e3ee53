"""Runs that hold a text: walked newest first, a slice at a time, and looked into along keys only.

Bytes of payloads are compared as they are written, so that text beyond ASCII is found as it stands, and letters A to Z
in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import text

from stepwell_server.model.runs import Phase
from stepwell_server.model.search_attributes import AttributeKind
from stepwell_server.store import run_lists
from stepwell_server.store.runs import SeenRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database
    from stepwell_server.store.run_lists import RunFilter

MOST_RUNS, MOST_EVENTS, MOST_BYTES = 5_000, 200, 64 * 1024
_SLICE = 250
_OWN = ("workflow_id", "type", "task_queue", "correlation_id")
# Walks the primary keys of what runs have. Payloads and failures are spelt with escapes, so that any bytes are text.
_HOLDING = text("""
    SELECT
        w.run_key,
        coalesce(t.holds, FALSE)
        OR EXISTS (
            SELECT FROM run_origins AS o
            WHERE o.run_key = w.run_key
                AND (strpos(lower(o.title), n.plain) > 0 OR strpos(lower(o.trigger_key), n.plain) > 0)
        )
        OR EXISTS (
            SELECT FROM search_attributes AS a
            WHERE a.run_key = w.run_key AND a.kind = CAST(:text AS smallint)
                AND strpos(lower(a.text_value), n.plain) > 0
        )
        OR EXISTS (
            SELECT FROM steps AS s
            WHERE s.run_key = w.run_key AND strpos(lower(concat_ws(chr(10), s.name, s.key, s.type)), n.plain) > 0
        )
        OR EXISTS (
            SELECT FROM closed_steps AS s
            WHERE s.run_key = w.run_key AND strpos(lower(concat_ws(chr(10), s.name, s.key, s.type)), n.plain) > 0
        ) AS holds,
        coalesce(t.large, FALSE) AS large
    FROM unnest(CAST(:keys AS bigint[])) AS w (run_key)
    CROSS JOIN (
        SELECT CAST(:needle AS text), encode(convert_to(CAST(:needle AS text), 'UTF8'), 'escape')
    ) AS n (plain, escaped)
    LEFT JOIN LATERAL (
        SELECT
            bool_or(
                x.step_ordinal > 0 AND (
                    strpos(lower(encode(x.payload, 'escape')), n.escaped) > 0
                    OR strpos(lower(encode(x.attributes, 'escape')), n.escaped) > 0
                )
            ) AS holds,
            bool_or(x.size > CAST(:most_bytes AS int)) AS large
        FROM (
            SELECT
                e.step_ordinal, octet_length(e.payload) AS size,
                substring(e.payload, 1, CAST(:most_bytes AS int)) AS payload,
                substring(e.attributes, 1, CAST(:most_bytes AS int)) AS attributes
            FROM events AS e
            WHERE e.run_key = w.run_key
            ORDER BY e.number DESC
            LIMIT CAST(:most_events AS int)
        ) AS x
    ) AS t ON TRUE
""")


class Found(msgspec.Struct):
    """Runs that hold the text, newest first; how many in all were met, and whether some were not looked into wholly.

    `last` is the key from which to go on, None where nothing is left to look into.
    """

    runs: list[SeenRun]
    count: int = 0
    last: int | None = None
    is_cut: bool = False


async def find(  # noqa: PLR0917 - what is asked of one list
    database: Database, wanted: RunFilter, needle: str, before: int | None, most: int, skip: int, *, counts: bool
) -> Found:
    """At most so many of them, behind the first `skip`. `counts` goes on looking when it has them."""
    needle, found, walked, place = needle.lower(), Found([]), 0, before
    while True:
        some = await run_lists.page(database, wanted, (), None if place is None else (place,), _SLICE, 0)
        held, cut = await _held(database, some, needle)
        found.is_cut |= cut
        for run in held:
            found.count += 1
            if found.count > skip and len(found.runs) < most:
                found.runs.append(run)
        walked += len(some)
        is_end, is_full = len(some) < _SLICE, len(found.runs) == most
        if is_end or walked >= MOST_RUNS or (is_full and not counts):
            break
        place = some[-1].run_key
    if found.count > skip + most or (is_full and not is_end):
        found.last = found.runs[-1].run_key
    elif not is_end:
        found.last = some[-1].run_key
    found.is_cut |= not is_end and walked >= MOST_RUNS
    return found


async def _held(database: Database, runs: Sequence[SeenRun], needle: str) -> tuple[list[SeenRun], bool]:
    """Those that hold the text, and whether some were not looked into wholly."""
    saying = {run.run_key for run in runs if _says(run, needle)}
    async with database.pool.begin() as connection:
        holding, cut = await _holding(connection, [run for run in runs if run.run_key not in saying], needle)
    return [run for run in runs if run.run_key in saying or run.run_key in holding], cut


def _says(run: SeenRun, needle: str) -> bool:
    texts = (str(run.run_id), Phase(run.phase).name, *(getattr(run, name) for name in _OWN))
    return any(needle in each.lower() for each in texts)


async def _holding(connection: AsyncConnection, runs: Sequence[SeenRun], needle: str) -> tuple[set[int], bool]:
    """Those of the runs that hold the text beside their own row, and whether some were not looked into wholly."""
    if not runs:
        return set(), False
    asked = {
        "keys": [run.run_key for run in runs],
        "needle": needle,
        "most_events": MOST_EVENTS,
        "most_bytes": MOST_BYTES,
        "text": int(AttributeKind.TEXT),
    }
    rows = (await connection.execute(_HOLDING, asked)).all()
    is_cut = any(row.large for row in rows) or any(run.last_event > MOST_EVENTS for run in runs)
    return {row.run_key for row in rows if row.holds}, is_cut
