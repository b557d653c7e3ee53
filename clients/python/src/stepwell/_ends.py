"""Where the ends of runs and those of jobs come from, and what else is told of runs, each in the words of its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from stepwell.v1 import jobs_pb2, runs_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

    from stepwell._rpc import Caller
    from stepwell.v1.jobs_pb2_grpc import JobServiceAsyncStub
    from stepwell.v1.runs_pb2_grpc import RunServiceAsyncStub

End = TypeVar("End")
Told_co = TypeVar("Told_co", covariant=True)
RunEnd = runs_pb2.WatchRunsResponse.End
RunNotice = runs_pb2.WatchRunsResponse.Notice
JobEnd = jobs_pb2.WatchJobsResponse.End

# One wait's; a call is given up and repeated after 20.
_WAIT_SECONDS = 15
_FIRST_ENDED_PHASE = types_pb2.RUN_PHASE_COMPLETED
_FIRST_ENDED_STATE = jobs_pb2.JOB_STATE_COMPLETED


class News(Protocol[Told_co]):
    """What is told of one kind of thing in one namespace."""

    def stream(self, cursor: str, id_suffix: str) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """Opens a stream of it, from a cursor or from now, of those whose ids end so."""
        ...

    def told(self, message: Any) -> Sequence[Told_co]:  # noqa: ANN401 - of each stream another
        """What one message of the stream tells, in its order."""
        ...


class Ends(News[End], Protocol[End]):
    """The ends of one kind of thing in one namespace. `noun` is what people call these."""

    noun: str

    def id_of(self, end: End) -> str:
        """Whose end it is."""
        ...

    def next_of(self, end: End) -> str:
        """What goes on in its place; empty if nothing does."""
        ...

    async def read(self, of: str) -> End | None:
        """Reads the end of one, if it has ended."""
        ...

    async def wait(self, of: str) -> End | None:
        """Waits a while for the end of one, by a call of its own."""
        ...


class RunEnds:
    """Ends of runs."""

    noun = "runs"

    def __init__(self, stub: RunServiceAsyncStub, caller: Caller, namespace: str) -> None:
        """Keeps how to ask."""
        self._stub = stub
        self._caller = caller
        self._namespace = namespace

    def stream(self, cursor: str, id_suffix: str) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """See Ends."""
        request = runs_pb2.WatchRunsRequest(namespace=self._namespace, cursor=cursor, id_suffix=id_suffix)
        return self._stub.WatchRuns(request, metadata=self._caller.metadata)

    def told(self, message: runs_pb2.WatchRunsResponse) -> Sequence[RunEnd]:
        """See News."""
        return message.ends

    def id_of(self, end: RunEnd) -> str:
        """See Ends."""
        return end.run_id

    def next_of(self, end: RunEnd) -> str:
        """See Ends."""
        return end.continued_run_id

    async def read(self, of: str) -> RunEnd | None:
        """See Ends."""
        request = runs_pb2.GetRunRequest(namespace=self._namespace, run_id=of)
        run = (await self._caller.call(self._stub.GetRun, request)).run
        return _end_of_run(run) if run.phase >= _FIRST_ENDED_PHASE else None

    async def wait(self, of: str) -> RunEnd | None:
        """See Ends."""
        request = runs_pb2.WaitRunRequest(namespace=self._namespace, run_id=of)
        request.wait.seconds = _WAIT_SECONDS
        response = await self._caller.call(self._stub.WaitRun, request)
        return _end_of_run(response.run) if response.ended else None


class RunNews:
    """Ends of runs, and notices of what else happens to them."""

    def __init__(
        self, stub: RunServiceAsyncStub, caller: Caller, namespace: str, news: Sequence[runs_pb2.RunNews.ValueType]
    ) -> None:
        """Keeps how to ask, and for what."""
        self._stub = stub
        self._caller = caller
        self._namespace = namespace
        self._news = news

    def stream(self, cursor: str, id_suffix: str) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """See News."""
        named = {"namespace": self._namespace, "cursor": cursor, "id_suffix": id_suffix}
        request = runs_pb2.WatchRunsRequest(**named, news=self._news)
        return self._stub.WatchRuns(request, metadata=self._caller.metadata)

    def told(self, message: runs_pb2.WatchRunsResponse) -> Sequence[RunEnd | RunNotice]:
        """See News: a message's notices come before its ends."""
        return [*message.notices, *message.ends]


class JobEnds:
    """Ends of jobs."""

    noun = "jobs"

    def __init__(self, stub: JobServiceAsyncStub, caller: Caller, namespace: str) -> None:
        """Keeps how to ask."""
        self._stub = stub
        self._caller = caller
        self._namespace = namespace

    def stream(self, cursor: str, id_suffix: str) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """See Ends."""
        request = jobs_pb2.WatchJobsRequest(namespace=self._namespace, cursor=cursor, id_suffix=id_suffix)
        return self._stub.WatchJobs(request, metadata=self._caller.metadata)

    def told(self, message: jobs_pb2.WatchJobsResponse) -> Sequence[JobEnd]:
        """See News."""
        return message.ends

    def id_of(self, end: JobEnd) -> str:
        """See Ends."""
        return end.job_id

    def next_of(self, end: JobEnd) -> str:
        """See Ends: a job goes on by itself or not at all."""
        del end
        return ""

    async def read(self, of: str) -> JobEnd | None:
        """See Ends."""
        request = jobs_pb2.GetJobRequest(namespace=self._namespace, job_id=of)
        job = (await self._caller.call(self._stub.GetJob, request)).job
        return _end_of_job(job) if job.state >= _FIRST_ENDED_STATE else None

    async def wait(self, of: str) -> JobEnd | None:
        """See Ends."""
        request = jobs_pb2.WaitJobRequest(namespace=self._namespace, job_id=of)
        request.wait.seconds = _WAIT_SECONDS
        response = await self._caller.call(self._stub.WaitJob, request)
        return _end_of_job(response.job) if response.ended else None


def _end_of_run(run: runs_pb2.Run) -> RunEnd:
    return RunEnd(
        run_id=run.run_id,
        workflow_id=run.workflow_id,
        phase=run.phase,
        continued_run_id=run.continued_run_id,
        result=run.result if run.HasField("result") else None,
        failure=run.failure if run.HasField("failure") else None,
        purged=run.purged,
    )


def _end_of_job(job: jobs_pb2.Job) -> JobEnd:
    return JobEnd(
        job_id=job.job_id,
        unique_key=job.unique_key,
        state=job.state,
        result=job.result if job.HasField("result") else None,
        failure=job.failure if job.HasField("failure") else None,
    )
