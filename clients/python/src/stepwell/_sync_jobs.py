"""Jobs for programs without asyncio: those of `stepwell.jobs`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from stepwell import jobs as _jobs
    from stepwell.options import JobFilter, JobOptions
    from stepwell.sync import Loop
    from stepwell.v1 import explanations_pb2, jobs_pb2

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class JobHandle(Generic[T_co]):
    """A job, as `stepwell.JobHandle`, whose calls return when they are done."""

    def __init__(self, loop: Loop, inner: _jobs.JobHandle[T_co]) -> None:
        """Made by `Client.start_job` and `Client.job`."""
        self._loop = loop
        self._inner = inner

    def __repr__(self) -> str:
        """Names the job."""
        return repr(self._inner)

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._inner.job_id

    @property
    def unique_key(self) -> str:
        """The caller's name for the job, as it was given to its start."""
        return self._inner.unique_key

    @property
    def started(self) -> bool:
        """Whether the start that gave this handle made the job."""
        return self._inner.started

    def result(self, timeout: float | None = None) -> T_co:
        """Waits until the job has ended, at most `timeout` seconds (default: for ever), and gives what it came to.

        Raises `JobFailed`, `JobNotFound`, `TimeoutError`.
        """
        return self._loop.call(self._inner.result(), timeout)

    def cancel(self, reason: str = "") -> bool:
        """Asks the job to stop; a worker that is at it is told. False if it had ended or had been asked before."""
        return self._loop.call(self._inner.cancel(reason))

    def retry(self) -> None:
        """Begins the job anew, if it has failed. Raises `JobNotFailed`, `JobNotFound`, `UniqueKeyInUse`."""
        self._loop.call(self._inner.retry())

    def describe(self) -> jobs_pb2.Job:
        """Reads the job as it is now. Raises `JobNotFound`."""
        return self._loop.call(self._inner.describe())

    def explain(self) -> list[explanations_pb2.Explanation]:
        """Tells why the job does not move, and what to do about it. Raises `JobNotFound`."""
        return self._loop.call(self._inner.explain())


class SyncJobCalls:
    """What a client can do about jobs: the part of `Client` that is about them."""

    def __init__(self, loop: Loop, jobs: _jobs.JobCalls) -> None:
        """Made by the client."""
        self._loop = loop
        self._jobs = jobs

    @overload
    def start_job(
        self, activity: Callable[..., Awaitable[T]], input: object = ..., **options: Unpack[JobOptions]
    ) -> JobHandle[T]: ...
    @overload
    def start_job(
        self, activity: Callable[..., T], input: object = ..., **options: Unpack[JobOptions]
    ) -> JobHandle[T]: ...
    @overload
    def start_job(self, activity: str, input: object = ..., **options: Unpack[JobOptions]) -> JobHandle[Any]: ...
    def start_job(
        self,
        activity: Callable[..., Any] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[JobOptions],
    ) -> JobHandle[Any]:
        """Starts an activity without a run, as `stepwell.Client.start_job`, and gives a handle to it."""
        return JobHandle(self._loop, self._loop.call(self._jobs.start_job(activity, input, **options)))

    def job(self, job_id: str, *, as_type: type[T] | None = None) -> JobHandle[T]:
        """Gives a handle to a job that exists; asks nothing of the service. `as_type` is what its result becomes."""
        return JobHandle(self._loop, self._jobs.job(job_id, as_type=as_type))

    def list_jobs(self, *, limit: int | None = None, **only: Unpack[JobFilter]) -> Iterator[jobs_pb2.Job]:
        """Lists jobs, newest first, without their payloads; at most `limit`."""
        return self._loop.iterate(self._jobs.list_jobs(limit=limit, **only))

    def watch_jobs(self) -> Iterator[jobs_pb2.WatchJobsResponse.End]:
        """Follows the ends of the namespace's jobs from now on, until it is left."""
        return self._loop.iterate(self._jobs.watch_jobs(), at_once=1)
