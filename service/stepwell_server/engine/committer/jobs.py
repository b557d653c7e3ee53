"""The jobs of one batch: looked up, locked, loaded, and put together for writing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from stepwell_server.engine.closing import open_job
from stepwell_server.engine.committer.orders import absent
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.names import GONE, JobBirths, Latest
from stepwell_server.model.jobs import JOB_ORDINAL, ClosedJob, Job
from stepwell_server.model.payloads import NULL
from stepwell_server.store import batch_reads, batches, job_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from stepwell_server import refusals
    from stepwell_server.engine.jobs import StartJob
    from stepwell_server.engine.limits import Limits
    from stepwell_server.engine.wishes import Missing
    from stepwell_server.model.jobs import JobRef
    from stepwell_server.store.connection import Connection, Row

_NO_ID = UUID(int=0)


class Jobs:
    """See the module. `births` are those that the batch starts."""

    def __init__(self, now: datetime, limits: Limits, next_key: Callable[[], int]) -> None:
        self._now = now
        self._limits = limits
        self.changes: dict[int, JobChange] = {}
        self.births = JobBirths(self.changes, next_key)

    async def look_up_starts(self, connection: Connection, starts: Sequence[StartJob]) -> None:
        """Finds out which of the ids and unique keys that starts give are borne already."""
        ids: dict[tuple[UUID, int], None] = {}
        names: dict[tuple[int, str], None] = {}
        for start in starts:
            if start.new.job_id is not None:
                ids[start.new.job_id, start.new.namespace_id] = None
            if start.new.unique_key:
                names[start.new.namespace_id, start.new.unique_key] = None
        # Names first: both are committed together, so that a job whose name is found is found by its id, too.
        await self.look_up_names(connection, names)
        if ids:
            wanted = list(ids)
            found = await job_batches.find_job_ids(connection, wanted)
            for (job_id, namespace_id), entry in zip(wanted, found, strict=True):
                self.births.ids[namespace_id, job_id] = entry

    async def look_up_names(self, connection: Connection, names: Iterable[tuple[int, str]]) -> None:
        """Finds the latest jobs of unique keys."""
        wanted = [name for name in names if name not in self.births.names]
        if not wanted:
            return
        asked = [(unique_key, namespace_id) for namespace_id, unique_key in wanted]
        for name, found in zip(wanted, await job_batches.find_unique_jobs(connection, asked), strict=True):
            self.births.names[name] = _latest(found) if found is not None else None

    async def resolve(self, connection: Connection, refs: Sequence[JobRef]) -> list[int | refusals.Refusal]:
        """The keys of the jobs that references mean."""
        wanted = [(ref.job_id, ref.namespace_id) for ref in refs if ref.job_id is not None]
        ids = dict(zip(wanted, await job_batches.find_job_ids(connection, wanted), strict=True)) if wanted else {}
        resolved: list[int | refusals.Refusal] = []
        for ref in refs:
            entry = ids.get((ref.job_id, ref.namespace_id)) if ref.job_id is not None else None
            key = entry.job_key if entry is not None else ref.job_key
            resolved.append(key if key is not None else absent(ref))
        return resolved

    async def open(self, connection: Connection, keys: Iterable[int]) -> tuple[set[int], set[int]]:
        """Locks jobs and opens a change for each. Answers the keys locked elsewhere, and those that are nowhere."""
        wanted = [key for key in keys if key not in self.changes]
        if not wanted:
            return set(), set()
        for job in await job_batches.lock_jobs(connection, wanted):
            self.changes[job.job_key] = self._change(job, None)
        absent = [key for key in wanted if key not in self.changes]
        if not absent:
            return set(), set()
        held = set(await job_batches.read_jobs(connection, absent))
        ended = [key for key in absent if key not in held]
        for closed in await job_batches.read_closed_jobs(connection, ended) if ended else ():
            self.changes[closed.job_key] = self._change(None, closed)
        nowhere = [key for key in ended if key not in self.changes]
        if nowhere:
            # One that is retried between the two looks is found at neither place: it is open now.
            held |= set(await job_batches.read_jobs(connection, nowhere))
        return held, set(nowhere) - held

    def _change(self, job: Job | None, closed: ClosedJob | None) -> JobChange:
        return JobChange(now=self._now, limits=self._limits, births=self.births, job=job, closed_job=closed)

    async def load(self, connection: Connection, wanted: Sequence[tuple[JobChange, Missing]]) -> None:
        """Loads what decisions asked for: heartbeats, and who bears which unique key."""
        beating = {change.key: change for change, missing in wanted if missing.heartbeats and not change.has_beat}
        if beating:
            keys = [(key, JOB_ORDINAL) for key in sorted(beating)]
            for key, ordinal, time, details in await batch_reads.read_heartbeats(connection, keys):
                beating[key].heartbeats[ordinal] = (time, details)
            for change in beating.values():
                change.has_beat = True
        await self.look_up_names(connection, {name for _, missing in wanted for name in missing.names})

    def collect(self, write: batches.Write) -> None:
        """Adds what is to be written."""
        jobs = write.jobs
        for change in self.changes.values():
            if change.has_changed:
                _collect(jobs, change)
                write.tasks.extend(change.tasks.values())
                write.tasks_gone.extend((change.key, ordinal) for ordinal in change.task_drops)
                write.ended += [] if change.is_open else [change.key]
        jobs.ids.extend(self.births.new_ids)
        for (namespace_id, unique_key), (found, key) in self.births.claims.items():
            if found is None:
                jobs.names.append((unique_key, namespace_id, key))
            else:
                jobs.renamed.append((unique_key, namespace_id, found, key))


def _collect(jobs: job_batches.JobWrite, change: JobChange) -> None:
    """What has also ended in its batch goes the whole way: it is there before it is moved."""
    original, job = change.original, change.job
    if change.fresh and isinstance(original, Job):
        jobs.new.append(job or original)
        if change.input is not None and change.input is not NULL:
            jobs.inputs.append((change.key, change.input))
    elif isinstance(original, ClosedJob):
        jobs.reopened.append(job or open_job(original, change.now))
        jobs.taken.append((change.key, original.retries))
    elif job is not None:
        jobs.changed.append(job)
    if not change.fresh and original is not None and change.retries > original.retries:
        jobs.retried.append(change.key)
    if change.closed_job is not None:
        jobs.closed.append((change.closed_job, change.result))


def _latest(row: Row) -> Latest:
    return Latest(row["job_key"], row["job_id"] or _NO_ID, row["state"] or GONE, row["turn"])
