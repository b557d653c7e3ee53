"""JobService."""

from __future__ import annotations

import functools
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import jobs_pb2, jobs_pb2_grpc
from stepwell_server.api.fields import Fields, id_ending, seconds, uuid
from stepwell_server.api.interceptors.deadlines import remaining, wait_seconds
from stepwell_server.api.interceptors.errors import as_refusal, to_status
from stepwell_server.api.job_values import (
    JobReader,
    end_to_proto,
    filter_from_proto,
    job_to_proto,
    whole_job_to_proto,
)
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of, asked_of_start
from stepwell_server.api.run_starts import require_namespace, size_of
from stepwell_server.api.run_values import each
from stepwell_server.engine.commands import JobCommand
from stepwell_server.engine.jobs import CancelJob, RetryJob, StartedJob, SteeredJob
from stepwell_server.model.jobs import JOB_ENDED, JobRef
from stepwell_server.model.steps import StepState
from stepwell_server.store import jobs
from stepwell_server.store.job_ends import JobEnd

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from stepwell_server.dispatch.watches import Watches
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.crews import Crews
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_WAIT = 20.0


class Jobs(jobs_pb2_grpc.JobServiceServicer):
    """Starts, reads and steers jobs."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        committers: Committers,
        database: Database,
        namespaces: Namespaces,
        crews: Crews,
        watches: Watches,
        settings: Settings,
    ) -> None:
        self._committers = committers
        self._database = database
        self._namespaces = namespaces
        self._crews = crews
        self._watches = watches
        self._fields = Fields(settings.limits)
        self._retention_seconds = settings.job_retention_seconds

    async def StartJob(self, request: jobs_pb2.StartJobRequest, context: Context) -> jobs_pb2.StartJobResponse:
        reader = await self._reader(request.namespace, context)
        asked = asked_of_start(request, reader.namespace_id, StartedJob, self._fields)
        started = await self._committers.do(StartedJob, reader.read(request), size_of(request), remaining(), asked)
        return started_to_proto(started)

    async def BatchStartJobs(
        self, request: jobs_pb2.BatchStartJobsRequest, context: Context
    ) -> jobs_pb2.BatchStartJobsResponse:
        namespace = self._fields.namespace(request.namespace)
        reader = await self._reader(namespace, context)

        def submit(place: int, item: jobs_pb2.StartJobRequest) -> asyncio.Future[object]:
            at = f"requests[{place}]."
            require_namespace(item.namespace, namespace, at)
            command = reader.read(item, at)
            asked = asked_of_start(item, reader.namespace_id, StartedJob, self._fields)
            return self._committers.submit(command, size_of(item), remaining(), asked)

        items = self._fields.items(request.requests, "requests", at_least=1)
        answers = await each(items, submit)
        return jobs_pb2.BatchStartJobsResponse(results=[result_to_proto(answer) for answer in answers])

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.GetJobResponse:
        return jobs_pb2.GetJobResponse(job=await self._whole(await self._ref(request)))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        namespace = self._fields.namespace(request.namespace)
        page = read_page(request, int, self._fields.limits)
        wanted = filter_from_proto(request, await self._namespaces.id_of(namespace), self._fields)
        found = await jobs.page(self._database, wanted, page.after, page.fetch, page.skip)
        shown = found[: page.size]
        token = page.token(shown[-1].job_key) if len(found) > page.size else ""
        return jobs_pb2.ListJobsResponse(jobs=[job_to_proto(job, namespace) for job in shown], next_page_token=token)

    async def WaitJob(self, request: jobs_pb2.WaitJobRequest, context: Context) -> jobs_pb2.WaitJobResponse:
        ref = await self._ref(request)
        wait = wait_seconds(seconds(request, "wait"), default=_DEFAULT_WAIT)
        await self._watches.wait_for_job(ref, wait)
        job = await self._watches.look(functools.partial(self._whole, ref))
        return jobs_pb2.WaitJobResponse(job=job, ended=StepState(job.state) in JOB_ENDED)

    async def WatchJobs(
        self, request: jobs_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.WatchJobsResponse]:
        namespace = await self._namespaces.get(self._fields.namespace(request.namespace))
        ending = id_ending(request.id_suffix, "id_suffix")
        async with aclosing(self._watches.watch(namespace, request.cursor, JobEnd, ending=ending)) as watched:
            async for news in watched:
                ends = [end_to_proto(end) for end in news.told if isinstance(end, JobEnd)]
                yield jobs_pb2.WatchJobsResponse(ends=ends, cursor=news.cursor)

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.CancelJobResponse:
        reason = self._fields.remark(request.reason, "reason")
        steered = await self._steer(CancelJob(await self._ref(request), reason), request)
        state = jobs_pb2.JobState.ValueType(steered.state)
        return jobs_pb2.CancelJobResponse(accepted=steered.accepted, state=state)

    async def RetryJob(self, request: jobs_pb2.RetryJobRequest, context: Context) -> jobs_pb2.RetryJobResponse:
        steered = await self._steer(RetryJob(await self._ref(request)), request)
        return jobs_pb2.RetryJobResponse(state=jobs_pb2.JobState.ValueType(steered.state))

    async def _steer(self, command: JobCommand, request: Message) -> SteeredJob:
        asked = asked_of(request, command.ref.namespace_id, SteeredJob, self._fields)
        return await self._committers.do(SteeredJob, command, size_of(request), remaining(), asked)

    async def _reader(self, namespace: str, context: Context) -> JobReader:
        name = self._fields.namespace(namespace)
        namespace_id = await self._namespaces.id_of(name)
        metadata = context.invocation_metadata() or ()
        return JobReader(namespace_id, name, metadata, self._fields, self._retention_seconds)

    async def _ref(
        self,
        request: jobs_pb2.GetJobRequest
        | jobs_pb2.WaitJobRequest
        | jobs_pb2.CancelJobRequest
        | jobs_pb2.RetryJobRequest,
    ) -> JobRef:
        namespace = self._fields.namespace(request.namespace)
        job_id = uuid(request.job_id, "job_id")
        return JobRef(await self._namespaces.id_of(namespace), namespace, job_id=job_id)

    async def _whole(self, ref: JobRef) -> jobs_pb2.Job:
        whole = await jobs.read(self._database, ref)
        crew = await self._crews.of(ref.namespace_id) if whole.ready_time is not None else None
        return whole_job_to_proto(whole, ref.namespace, crew)


def started_to_proto(started: StartedJob) -> jobs_pb2.StartJobResponse:
    """Renders the answer to a start."""
    return jobs_pb2.StartJobResponse(job_id=str(started.job_id), started=started.started)


def result_to_proto(answer: object) -> jobs_pb2.BatchStartJobsResponse.Result:
    """Renders what came of one start of several."""
    if isinstance(answer, StartedJob):
        return jobs_pb2.BatchStartJobsResponse.Result(started=started_to_proto(answer))
    error = answer if isinstance(answer, Exception) else TypeError(f"answered with {type(answer).__name__}")
    return jobs_pb2.BatchStartJobsResponse.Result(error=to_status(as_refusal(error, "StartJob")))
