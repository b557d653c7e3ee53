"""Reading which runs ended, in commit order: what watches follow where memory does not reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace
from sqlalchemy import ARRAY, BigInteger, and_, any_, case, cast, func, select

from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import ClosedRun, unpack_details
from stepwell_server.store.schema import BATCHES, CLOSED_RUNS, EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from stepwell_server.store.database import Database

RESULT_BYTES = 65_536
"""A larger result does not travel with the news of an end."""


class BatchNews(NamedTuple):
    """The keys of the runs and jobs that ended in one batch, in its order, and the events that tell what else was."""

    committer: int
    position: int
    keys: list[int]
    notices: list[int] | None


class End(msgspec.Struct, frozen=True, gc=False):
    """The end of one run. `result` is None where it was left out for its size."""

    run_key: int
    namespace_id: int
    run_id: UUID
    workflow_id: str
    phase: int
    continued_run_id: str
    result: Payload | None
    failure: Failure | None
    purged: bool = False

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        failure, result = self.failure, self.result
        details = failure.details if failure is not None else None
        bodies = sum(len(payload.body) for payload in (result, details) if payload is not None)
        return 256 + bodies + (len(failure.message) + len(failure.stack_trace) if failure is not None else 0)


def end_of(run: ClosedRun, payload: Payload, failure: Failure | None) -> End:
    """The news of an end, without what is too large for it."""
    if failure is not None and failure.details is not None and len(failure.details.body) > RESULT_BYTES:
        failure = replace(failure, details=None)
    result = payload if len(payload.body) <= RESULT_BYTES else None
    details = unpack_details(run.details)
    named = (run.run_key, run.namespace_id, run.run_id, run.workflow_id)
    return End(*named, run.phase, details.continued_run_id, result, failure, details.is_purged)


async def heads(database: Database) -> dict[int, int]:
    """The latest position of every committer of which something is kept. Walks batches_position_idx, skipping."""
    ours = select(func.min(BATCHES.c.committer).label("committer")).where(BATCHES.c.committer > 0).cte(recursive=True)
    following = select(func.min(BATCHES.c.committer)).where(BATCHES.c.committer > ours.c.committer).scalar_subquery()
    ours = ours.union_all(select(following).where(ours.c.committer.is_not(None)))
    last = select(func.max(BATCHES.c.position)).where(BATCHES.c.committer == ours.c.committer).scalar_subquery()
    query = select(ours.c.committer, last).where(ours.c.committer.is_not(None))
    async with database.pool.begin() as connection:
        return {row[0]: row[1] for row in await connection.execute(query)}


async def batches_after(
    database: Database, committer: int, after: int, most: int, *, up_to: int | None = None
) -> list[BatchNews]:
    """Batches of one committer in their order. Walks batches_position_idx."""
    query = (
        select(BATCHES.c.committer, BATCHES.c.position, BATCHES.c.ended, BATCHES.c.notices)
        .where(BATCHES.c.committer == committer, BATCHES.c.position > after)
        .order_by(BATCHES.c.position)
        .limit(most)
    )
    if up_to is not None:
        query = query.where(BATCHES.c.position <= up_to)
    async with database.pool.begin() as connection:
        return [BatchNews(*row) for row in await connection.execute(query)]


async def read_ends(database: Database, run_keys: Iterable[int], namespace_ids: Iterable[int]) -> dict[int, End]:
    """How runs of these namespaces ended, by key. One that was deleted is missing, one that was purged is not."""
    size = func.coalesce(func.octet_length(EVENTS.c.payload), 0)
    # A body one byte too long stands for a larger one, which need not be read to be left out.
    body = case((size <= RESULT_BYTES, EVENTS.c.payload), else_=func.substring(EVENTS.c.payload, 1, RESULT_BYTES + 1))
    query = (
        select(CLOSED_RUNS, EVENTS.c.payload_kind, body, EVENTS.c.attributes)
        .outerjoin(EVENTS, and_(EVENTS.c.run_key == CLOSED_RUNS.c.run_key, EVENTS.c.number == CLOSED_RUNS.c.end_event))
        .where(
            CLOSED_RUNS.c.run_key == any_(cast(list(run_keys), ARRAY(BigInteger))),
            CLOSED_RUNS.c.namespace_id.in_(list(namespace_ids)),
        )
    )
    async with database.pool.begin() as connection:
        rows = (await connection.execute(query)).all()
    ends: dict[int, End] = {}
    for *columns, kind, payload, packed in rows:
        run = ClosedRun(*columns)
        if kind is None:
            ends[run.run_key] = end_of(run, NULL, None)
            continue
        attributes = unpack_attributes(packed)
        ends[run.run_key] = end_of(run, payload_of(kind, payload, attributes), attributes.failure)
    return ends
