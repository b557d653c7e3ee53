"""Jobs of a batch in memory: the functions of `store.job_batches`, over dictionaries that check what Postgres would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from stepwell_server.model.jobs import ClosedJob, Job, JobId
from stepwell_server.model.payloads import Payload
from stepwell_server.store.job_batches import JobWrite


class MemoryJobs:
    """See the module. Stands where the committer expects the module `store.job_batches`."""

    def __init__(self, locked: set[int]) -> None:
        self.jobs: dict[int, Job] = {}
        self.closed: dict[int, ClosedJob] = {}
        self.inputs: dict[int, Payload] = {}
        self.results: dict[int, Payload] = {}
        self.ids: dict[tuple[UUID, int], JobId] = {}
        self.names: dict[tuple[str, int], tuple[int, int]] = {}  # the job's key, and how often it was given
        self.locked = locked

    # --- reading ----------------------------------------------------------------------------------------------------

    async def find_job_ids(self, connection: Any, wanted: Sequence[tuple[UUID, int]]) -> list[JobId | None]:
        return [self.ids.get(each) for each in wanted]

    async def find_unique_jobs(self, connection: Any, wanted: Sequence[tuple[str, int]]) -> list[Any]:
        found: list[Any] = []
        for name in wanted:
            key, turn = self.names.get(name, (None, 0))
            job = None if key is None else self.jobs.get(key) or self.closed[key]
            found.append(job and {"job_key": job.job_key, "turn": turn, "job_id": job.job_id, "state": job.state})
        return found

    async def lock_jobs(self, connection: Any, keys: Iterable[int]) -> list[Job]:
        return [self.jobs[key] for key in sorted(keys) if key in self.jobs and key not in self.locked]

    async def read_jobs(self, connection: Any, keys: Sequence[int]) -> dict[int, Job]:
        return {key: self.jobs[key] for key in keys if key in self.jobs}

    async def read_closed_jobs(self, connection: Any, keys: Sequence[int]) -> list[ClosedJob]:
        return [self.closed[key] for key in keys if key in self.closed]

    # --- writing ----------------------------------------------------------------------------------------------------

    def apply(self, write: JobWrite) -> None:
        """Writes in the order of `store.job_batches.write`."""
        for job in write.reopened:
            del self.closed[job.job_key]
        for entry in write.ids:
            _insert(self.ids, (entry.job_id, entry.namespace_id), entry)
        for name, namespace_id, key in write.names:
            _insert(self.names, (name, namespace_id), (key, 0))
        for name, namespace_id, turn, key in write.renamed:
            assert self.names[name, namespace_id][1] == turn
            self.names[name, namespace_id] = (key, turn + 1)
        for job in (*write.new, *write.reopened):
            _insert(self.jobs, job.job_key, job)
        for key, given in write.inputs:
            _insert(self.inputs, key, given)
        for job in write.changed:
            assert job != self.jobs[job.job_key], "nothing changed"
            self.jobs[job.job_key] = job
        for closed, result in write.closed:
            del self.jobs[closed.job_key]
            _insert(self.closed, closed.job_key, closed)
            self.results[closed.job_key] = result


def _insert(table: dict[Any, Any], key: Any, row: Any) -> None:
    assert key not in table, f"{key} is there already"
    table[key] = row
