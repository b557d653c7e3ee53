"""A job, as seen from outside: an activity without a run. Wait for it, look at it, stop it, try it again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

from stepwell import _tracing, errors, reasons
from stepwell._batches import Coalescer
from stepwell._ends import JobEnds
from stepwell._rpc import Caller, start_ids, uuid7, uuid_of
from stepwell._watch import Watchers, news
from stepwell.definitions import type_and_defaults
from stepwell.errors import JobFailed
from stepwell.policies import JOB_CONFLICT, JOB_REUSE, duration
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import explanations_pb2, jobs_pb2
from stepwell.v1.explanations_pb2_grpc import ExplanationServiceStub
from stepwell.v1.jobs_pb2 import JobState
from stepwell.v1.jobs_pb2_grpc import JobServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import grpc

    from stepwell._ends import JobEnd
    from stepwell._watch import Wait
    from stepwell.converter import DataConverter
    from stepwell.options import JobFilter, JobOptions

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def state_name(state: JobState.ValueType) -> str:
    """Gives a state as people say it: `COMPLETED`."""
    return JobState.Name(state).removeprefix("JOB_STATE_")


@dataclasses.dataclass(frozen=True, slots=True)
class JobStart:
    """A job that is about to be started."""

    request: jobs_pb2.StartJobRequest
    hint: object

    @classmethod
    def of(
        cls,
        converter: DataConverter,
        activity: Callable[..., Any] | str,
        value: object,
        options: JobOptions,
        ending: str,
    ) -> JobStart:
        """Spells a start: as its options say, else as the activity's decorator does. An id that it makes ends so."""
        kind, hint, defaults = type_and_defaults(activity, "activity")
        job_id, request_id = start_ids(options.get("job_id"), options.get("request_id", ""), ending)
        request = jobs_pb2.StartJobRequest(
            type=kind,
            unique_key=options.get("unique_key", ""),
            job_id=job_id,
            input=converter.to_payload(value),
            reuse_policy=JOB_REUSE[options.get("reuse", "allow")],
            conflict_policy=JOB_CONFLICT[options.get("conflict", "fail")],
            start_delay=duration(options.get("start_delay")),
            retention=duration(options.get("retention")),
            correlation_id=options.get("correlation_id", ""),
            fairness_key=options.get("fairness_key", ""),
            request_id=request_id,
            **defaults.spell(options),
        )
        return cls(request, hint)


class JobHandle(Generic[T_co]):
    """A job of this client's namespace. `started` tells, after a start, whether this start made the job or found it."""

    __slots__ = ("_client", "_hint", "_is_retried", "_wait", "job_id", "started", "unique_key")

    def __init__(
        self,
        client: JobCalls,
        job_id: str,
        unique_key: str = "",
        *,
        hint: object = None,
        started: bool = False,
        wait: Wait[JobEnd] | None = None,
    ) -> None:
        """Made by `Client.start_job` and `Client.job`."""
        self._client = client
        self._hint = hint
        self._wait = wait
        self._is_retried = False
        self.job_id = job_id
        self.unique_key = unique_key
        self.started = started

    def __repr__(self) -> str:
        """Names the job."""
        return f"JobHandle(job_id={self.job_id!r}, unique_key={self.unique_key!r})"

    async def result(self) -> T_co:
        """Waits until the job has ended, and gives what it came to.

        Raises `JobFailed` when it ended otherwise, `JobNotFound` when there is none. Bound it with `asyncio.timeout`.
        """
        client = self._client
        end = await client.job_watcher.end(self.job_id, self._wait)
        while self._is_retried and end.state != jobs_pb2.JOB_STATE_COMPLETED:
            # It may be the end before the retry, which the stream told late.
            job = await self.describe()
            if job.state >= jobs_pb2.JOB_STATE_COMPLETED:
                break
            end = await client.job_watcher.end(self.job_id, None)
        if end.state != jobs_pb2.JOB_STATE_COMPLETED:
            self._wait = None  # it may be retried
            raise JobFailed(self.job_id, state_name(end.state), end.failure if end.HasField("failure") else None)
        result = (await self.describe()).result if end.result_omitted else end.result
        value: T_co = client.converter.from_payload(result, self._hint)
        return value

    async def cancel(self, reason: str = "") -> bool:
        """Asks the job to stop; a worker that is at it is told. False if it had ended or had been asked before."""
        request = jobs_pb2.CancelJobRequest(**self._name(), reason=reason, request_id=uuid7())
        response = await self._client.caller.call(
            self._client.job_stub.CancelJob, request, traceparent=_tracing.current_traceparent()
        )
        return response.accepted

    async def retry(self) -> None:
        """Begins the job anew, if it has failed. Raises `JobNotFailed`, `JobNotFound`, `UniqueKeyInUse`."""
        request = jobs_pb2.RetryJobRequest(**self._name(), request_id=uuid7())
        self._wait, self._is_retried = None, True
        await self._client.caller.call(
            self._client.job_stub.RetryJob, request, traceparent=_tracing.current_traceparent()
        )

    async def describe(self) -> jobs_pb2.Job:
        """Reads the job as it is now. Raises `JobNotFound`."""
        request = jobs_pb2.GetJobRequest(**self._name())
        return (await self._client.caller.call(self._client.job_stub.GetJob, request)).job

    async def explain(self) -> list[explanations_pb2.Explanation]:
        """Tells why the job does not move, and what to do about it. Raises `JobNotFound`."""
        request = explanations_pb2.ExplainJobRequest(**self._name())
        return list((await self._client.caller.call(self._client.explanation_stub.ExplainJob, request)).explanations)

    def _name(self) -> dict[str, Any]:
        return {"namespace": self._client.namespace, "job_id": self.job_id}


class JobCalls:
    """What a client can do about jobs: the part of `Client` that is about them."""

    def __init__(
        self, channel: grpc.aio.Channel, caller: Caller, namespace: str, converter: DataConverter, call_timeout: float
    ) -> None:
        """Made by the client."""
        self.namespace = namespace
        self.converter = converter
        self.caller = caller
        self.job_stub = JobServiceStub(channel)
        self.explanation_stub = ExplanationServiceStub(channel)
        self._job_ends = JobEnds(self.job_stub, caller, namespace)
        self.job_watcher = Watchers(self._job_ends)
        self._job_starts = Coalescer(self._send_job_starts, call_timeout)

    @overload
    async def start_job(
        self, activity: Callable[..., Awaitable[T]], input: object = ..., **options: Unpack[JobOptions]
    ) -> JobHandle[T]: ...
    @overload
    async def start_job(
        self, activity: Callable[..., T], input: object = ..., **options: Unpack[JobOptions]
    ) -> JobHandle[T]: ...
    @overload
    async def start_job(self, activity: str, input: object = ..., **options: Unpack[JobOptions]) -> JobHandle[Any]: ...
    async def start_job(
        self,
        activity: Callable[..., Any] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[JobOptions],
    ) -> JobHandle[Any]:
        """Starts an activity without a run (a function with `@activity`, or a type by name), and gives a handle to it.

        Starts that are under way at the same time share calls. A repeat after a lost answer finds the job that the
        first made. Raises `UniqueKeyInUse`, `JobExists`, `NamespaceNotFound`, `InvalidField`, `RequestIdReused`.
        """
        start = JobStart.of(self.converter, activity, input, options, self.job_watcher.ending)
        request, job_id = start.request, start.request.job_id
        wait = self.job_watcher.expect(job_id) if job_id else None
        started = await self._job_starts.submit(request, _tracing.current_traceparent())
        if started.job_id != job_id or not started.started:
            wait = None
        return JobHandle(self, started.job_id, request.unique_key, hint=start.hint, started=started.started, wait=wait)

    async def _send_job_starts(
        self, requests: list[jobs_pb2.StartJobRequest], traceparent: str
    ) -> list[jobs_pb2.StartJobResponse | errors.ServiceError]:
        batch = jobs_pb2.BatchStartJobsRequest(namespace=self.namespace, requests=requests)
        response = await self.caller.call(self.job_stub.BatchStartJobs, batch, traceparent=traceparent)
        return [
            reasons.from_status(result.error) if result.HasField("error") else result.started
            for result in response.results
        ]

    def job(self, job_id: str, *, as_type: type[T] | None = None) -> JobHandle[T]:
        """Gives a handle to a job that exists; asks nothing of the service. `as_type` is what its result becomes."""
        return JobHandle(self, uuid_of(job_id), hint=as_type)

    async def list_jobs(
        self, *, limit: int | None = None, **only: Unpack[JobFilter]
    ) -> AsyncGenerator[jobs_pb2.Job, None]:
        """Lists jobs, newest first, without their payloads; at most `limit`."""
        request = jobs_pb2.ListJobsRequest(
            namespace=self.namespace,
            states=[JobState.Value(f"JOB_STATE_{state.upper()}") for state in only.get("states", ())],
            type=only.get("type", ""),
            task_queue=only.get("task_queue", ""),
            unique_key=only.get("unique_key", ""),
            correlation_id=only.get("correlation_id", ""),
            page_size=PAGE_SIZE if limit is None else min(limit, PAGE_SIZE),
        )
        left = limit
        while left is None or left > 0:
            page = await self.caller.call(self.job_stub.ListJobs, request)
            for job in page.jobs[:left]:
                yield job
            left = None if left is None else left - len(page.jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch_jobs(self) -> AsyncGenerator[JobEnd, None]:
        """Follows the ends of the namespace's jobs from now on, as `watch_runs` does those of runs."""
        return news(self._job_ends)
