"""Jobs in a batch of the committer: loading and writing them, set by set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import astuple

from stepwell_server.model.jobs import ClosedJob, Job, JobId
from stepwell_server.model.payloads import Payload, pack_payload, unpack_payload
from stepwell_server.store.columns import pairs
from stepwell_server.store.faults import Conflict
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from stepwell_server.store.connection import Connection, Row
    from stepwell_server.store.writing import Writing

JOBS = load("jobs")
_CHANGES = Job.__struct_fields__.index("schedule_time")
_CLOSED_CHANGES = ClosedJob.__struct_fields__.index("schedule_time")


class JobWrite(msgspec.Struct):
    """What one batch writes of jobs. Rows of one table never name the same key twice."""

    ids: list[JobId] = []
    names: list[tuple[str, int, int]] = []
    renamed: list[tuple[str, int, int, int]] = []  # unique key, namespace, the turn found, job key
    new: list[Job] = []
    inputs: list[tuple[int, Payload]] = []
    changed: list[Job] = []
    reopened: list[Job] = []
    taken: list[tuple[int, int]] = []  # of those the keys, and how often each had been retried when it was looked at
    retried: list[int] = []  # keys of those that begin anew, also if they ended in this very batch
    closed: list[tuple[ClosedJob, Payload]] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.new or self.changed or self.reopened or self.closed)


async def write(connection: Connection, batch: JobWrite, out: Writing) -> None:
    """Notes what is to be written of jobs, tables in one order and keys sorted. What ends is moved at once, at the end.

    Raises Conflict if what was decided on has changed.
    """
    if batch.reopened:
        # Before its unique key, as retention does: who of the two comes first has both.
        out.change(JOBS["delete_closed_jobs"], pairs(sorted(batch.taken)), len(batch.taken))
    if batch.ids:
        batch.ids.sort(key=lambda entry: (entry.job_id.int, entry.namespace_id))
        out.insert(JOBS["insert_job_ids"], map(astuple, batch.ids))
    if batch.names:
        out.insert(JOBS["insert_unique_jobs"], sorted(batch.names))
    if batch.renamed:
        await out.send()
        out.change(JOBS["update_unique_jobs"], pairs(sorted(batch.renamed)), len(batch.renamed))
    if batch.new or batch.reopened:
        out.insert(JOBS["insert_jobs"], map(astuple, [*batch.new, *batch.reopened]))
    if batch.inputs:
        out.insert(JOBS["insert_job_inputs"], ((key, pack_payload(given)) for key, given in batch.inputs))
    if batch.retried:
        out.change(JOBS["delete_job_heartbeats"], [sorted(batch.retried)])
    if batch.changed:
        rows = [(job.job_key, *astuple(job)[_CHANGES:]) for job in batch.changed]
        out.change(JOBS["update_jobs"], pairs(rows), len(rows))
    if batch.closed:
        await out.send()
        ended = [(job.job_key, *astuple(job)[_CLOSED_CHANGES:], pack_payload(result)) for job, result in batch.closed]
        touched = await connection.write(JOBS["close_jobs"], pairs(ended))
        if touched != len(ended):
            raise Conflict(f"close_jobs: {touched} rows of {len(ended)}")


# --- loading ----------------------------------------------------------------------------------------------------------


async def find_job_ids(connection: Connection, wanted: Sequence[tuple[UUID, int]]) -> list[JobId | None]:
    """The job of each id, in the order asked."""
    found: list[JobId | None] = [None] * len(wanted)
    for row in await connection.fetch(JOBS["find_job_ids"], *pairs(wanted)):
        found[row[0] - 1] = JobId(*row[1:])
    return found


async def find_unique_jobs(connection: Connection, wanted: Sequence[tuple[str, int]]) -> list[Row | None]:
    """The latest job of each unique key, in the order asked: (place, key, turn, id, state)."""
    found: list[Row | None] = [None] * len(wanted)
    for row in await connection.fetch(JOBS["find_unique_jobs"], *pairs(wanted)):
        found[row[0] - 1] = row
    return found


async def lock_jobs(connection: Connection, keys: Iterable[int]) -> list[Job]:
    """Open jobs, locked; those that are locked elsewhere are left out."""
    return [Job(*row) for row in await connection.fetch(JOBS["lock_jobs"], sorted(keys))]


async def read_jobs(connection: Connection, keys: Sequence[int]) -> dict[int, Job]:
    """Open jobs by key, locked or not."""
    return {row["job_key"]: Job(*row) for row in await connection.fetch(JOBS["read_jobs"], keys)}


async def read_closed_jobs(connection: Connection, keys: Sequence[int]) -> list[ClosedJob]:
    """Jobs that have ended."""
    return [ClosedJob(*row) for row in await connection.fetch(JOBS["read_closed_jobs"], keys)]


async def read_job_inputs(connection: Connection, keys: Sequence[int]) -> dict[int, Payload]:
    """What jobs were given; one without an input is missing."""
    return {row[0]: unpack_payload(row[1]) for row in await connection.fetch(JOBS["read_job_inputs"], keys)}
