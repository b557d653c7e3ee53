"""The ends of jobs, as watches tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace
from sqlalchemy import ARRAY, BigInteger, any_, case, cast, func, select

from stepwell_server.model.payloads import Failure, Payload, unpack_failure, unpack_payload
from stepwell_server.store.schema import CLOSED_JOBS
from stepwell_server.store.watches import RESULT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell_server.model.jobs import ClosedJob
    from stepwell_server.store.database import Database

# What a packed payload has beside its body, at most: its kind, its lengths and its metadata.
_PACKED = 16_384


class JobEnd(msgspec.Struct, frozen=True, gc=False):
    """The end of one job. `result` is None where it was left out for its size."""

    job_key: int
    namespace_id: int
    job_id: UUID
    unique_key: str
    state: int
    result: Payload | None
    failure: Failure | None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        failure, result = self.failure, self.result
        details = failure.details if failure is not None else None
        bodies = sum(len(payload.body) for payload in (result, details) if payload is not None)
        return 256 + bodies + (len(failure.message) + len(failure.stack_trace) if failure is not None else 0)


def end_of(job: ClosedJob, result: Payload) -> JobEnd:
    """The news of an end, without what is too large for it."""
    return _end(job.job_key, job.namespace_id, job.job_id, job.unique_key, job.state, job.failure, result)


def _end(  # noqa: PLR0917 - the columns of one row
    job_key: int,
    namespace_id: int,
    job_id: UUID,
    unique_key: str,
    state: int,
    failure: bytes | None,
    result: Payload | None,
) -> JobEnd:
    told = unpack_failure(failure)
    if told is not None and told.details is not None and len(told.details.body) > RESULT_BYTES:
        told = replace(told, details=None)
    kept = result if result is not None and len(result.body) <= RESULT_BYTES else None
    return JobEnd(job_key, namespace_id, job_id, unique_key, state, kept, told)


async def read_ends(database: Database, keys: Iterable[int], namespace_ids: Iterable[int]) -> dict[int, JobEnd]:
    """How jobs of these namespaces ended, by key. One whose retention is over, or that was retried, is missing."""
    names = ("job_key", "namespace_id", "job_id", "unique_key", "state", "failure")
    # What may be too large need not be read to be left out.
    fits = func.coalesce(func.octet_length(CLOSED_JOBS.c.result), 0) <= RESULT_BYTES + _PACKED
    query = select(*(CLOSED_JOBS.c[name] for name in names), fits, case((fits, CLOSED_JOBS.c.result))).where(
        CLOSED_JOBS.c.job_key == any_(cast(list(keys), ARRAY(BigInteger))),
        CLOSED_JOBS.c.namespace_id.in_(list(namespace_ids)),
    )
    async with database.pool.begin() as connection:
        rows = (await connection.execute(query)).all()
    return {row[0]: _end(*row[:6], unpack_payload(row[7]) if row[6] else None) for row in rows}
