"""Reading what watches tell of runs besides their ends: starts, pauses, resumptions and reopenings."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, BigInteger, and_, any_, cast, func, select, union_all

from stepwell_server.ids import unpack
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.notices import FIRST_EVENT, RunNews, news_of
from stepwell_server.store.schema import CLOSED_RUNS, EVENTS, RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import CompoundSelect, Select

    from stepwell_server.ids import Ordinal, RunKey
    from stepwell_server.model.events import Event
    from stepwell_server.model.runs import ClosedRun, Run
    from stepwell_server.store.database import Database

_KNOWN = ("namespace_id", "run_id", "workflow_id", "type", "task_queue")


class Notice(msgspec.Struct, frozen=True, gc=False):
    """Something that happened to one run, besides its end."""

    news: RunNews
    time: datetime
    reason: str
    namespace_id: int
    run_id: UUID
    workflow_id: str
    type: str
    task_queue: str

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return 256 + len(self.workflow_id) + len(self.type) + len(self.task_queue) + len(self.reason)


def notice_of(run: Run | ClosedRun, event: Event) -> Notice:
    """What an event tells of its run."""
    return _notice([getattr(run, name) for name in _KNOWN], event.type, event.event_time, event.attributes)


def _notice(known: Sequence[Any], kind: int, time: datetime, attributes: bytes | None) -> Notice:
    facts = unpack_attributes(attributes).facts or {}
    return Notice(news_of(kind, facts), time, facts.get("reason", ""), *known)


async def read_notices(database: Database, numbers: Iterable[int], namespace_ids: Iterable[int]) -> dict[int, Notice]:
    """What events tell of runs of these namespaces, by their numbers.

    Starts are told from the runs' rows; anything else is missing if the history is gone, as all is of a deleted run.
    Walks the primary keys of runs, and of one partition of closed_runs and events each.
    """
    places = {number: unpack(number) for number in numbers}
    later = [place for place in places.values() if place[1] != FIRST_EVENT]
    async with database.pool.begin() as connection:
        found = await connection.execute(_runs([key for key, _ in places.values()], namespace_ids))
        runs = {row[0]: tuple(row[1:]) for row in found}
        events = {row[:2]: row[2:] for row in await connection.execute(_events(later))} if later else {}
    notices: dict[int, Notice] = {}
    for number, (key, event) in places.items():
        *known, create_time = runs.get(key, (None,))
        told = (EventType.RUN_STARTED, create_time, None) if event == FIRST_EVENT else events.get((key, event))
        if known and told is not None:
            notices[number] = _notice(known, *told)
    return notices


def _runs(keys: list[RunKey], namespace_ids: Iterable[int]) -> CompoundSelect[Any]:
    """Runs, open and ended, with what notices tell of them."""
    wanted, spaces = cast(keys, ARRAY(BigInteger)), list(namespace_ids)
    return union_all(
        *(
            select(table.c.run_key, *(table.c[name] for name in _KNOWN), table.c.create_time).where(
                table.c.run_key == any_(wanted), table.c.namespace_id.in_(spaces)
            )
            for table in (RUNS, CLOSED_RUNS)
        )
    )


def _events(places: list[tuple[RunKey, Ordinal]]) -> Select[Any]:
    """Events by their runs and numbers."""
    arrays = [cast([place[part] for place in places], ARRAY(BigInteger)) for part in (0, 1)]
    asked = func.unnest(*arrays).table_valued("run_key", "number").render_derived(name="asked")
    is_asked = and_(EVENTS.c.run_key == asked.c.run_key, EVENTS.c.number == asked.c.number)
    told = (EVENTS.c.type, EVENTS.c.event_time, EVENTS.c.attributes)
    return select(EVENTS.c.run_key, EVENTS.c.number, *told).join(asked, is_asked)
