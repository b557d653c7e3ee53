"""Workers of the client without a stream, against a whole service."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from tests.stream.code import Code
from tests.stream.kit import Replica, replica

from stepwell import ApplicationError, Client, JobFailed, reasons, sync
from stepwell.errors import ServiceError
from stepwell.sessions import Session
from stepwell.v1 import jobs_pb2, types_pb2
from stepwell.v1.workers_pb2 import CancelledActivity, CompleteActivity, Report, ReportResult, Task, TaskRef

ACCEPTED = ReportResult.STATUS_ACCEPTED


@dataclasses.dataclass
class Page:
    number: int


@pytest_asyncio.fixture
async def server(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url, session_seconds=60) as running:
        yield running


@pytest_asyncio.fixture
async def client(server: Replica) -> AsyncIterator[Client]:
    async with await Client.connect(server.service.address) as connected:
        yield connected


@pytest_asyncio.fixture
async def session(client: Client) -> AsyncIterator[Session]:
    async with await client.open_session("nightly", workflow_types=["book"], activity_types=["render"]) as opened:
        yield opened


class BySession:
    """Lets a run's code report by a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.working: dict[str, Task] = {}

    async def report(self, ref: TaskRef, **outcome: Any) -> ReportResult:
        return (await self._session.report([Report(correlation=1, ref=ref, **outcome)]))[0]


def code_of(session: Session, task: Task) -> Code:
    stream: Any = BySession(session)
    return Code(stream, task)


async def test_a_job_is_claimed_and_completed(client: Client, session: Session) -> None:
    job = await client.start_job("render", Page(7))
    (task,) = await session.claim("activity", wait=30)
    assert session.input_of(task, Page) == Page(7)
    await session.complete(task, {"pages": 1})
    assert await job.result() == {"pages": 1}
    await session.complete(task, {"pages": 1})  # as after a lost answer


async def test_a_claim_waits_and_takes_as_many_as_asked_for(client: Client, session: Session) -> None:
    assert await session.claim() == []
    assert session.ttl == 60
    claim = asyncio.create_task(session.claim(wait=30))
    await client.start_job("render", 0)
    (first,) = await claim
    for number in range(1, 4):
        await client.start_job("render", number)
    assert await session.claim("run", max_tasks=8) == []
    assert await session.claim(task_queue="other", max_tasks=8) == []
    tasks = [first, *await session.claim(max_tasks=2), *await session.claim(max_tasks=8)]
    assert [session.input_of(task) for task in tasks] == [0, 1, 2, 3]


async def test_an_attempt_fails_or_stops_or_goes_back(client: Client, session: Session) -> None:
    job = await client.start_job("render", 1)
    (task,) = await session.claim(wait=30)
    await session.release(task, "not now")
    (task,) = await session.claim(wait=30)
    assert (await session.heartbeat([task], {"page": 3}))[0].lost is False
    await session.fail(task, ApplicationError("paper jam", retry_after=0.001))
    (again,) = await session.claim(wait=30)
    assert (again.attempt, session.details_of(again)) == (2, {"page": 3})
    await job.cancel("no paper")
    assert [beat.cancel_requested for beat in await session.heartbeat([again])] == [True]
    await session.cancelled(again, "at page 3")
    with pytest.raises(JobFailed, match="CANCELLED"):
        await job.result()


async def test_what_a_session_holds_goes_back_when_it_closes(client: Client, session: Session) -> None:
    await client.start_job("render", 1)
    async with await client.open_session("other", activity_types=["render"]) as other:
        (task,) = await other.claim(wait=30)
        await session.heartbeat()
        assert [beat.lost for beat in await session.heartbeat([task])] == [True]
    (again,) = await session.claim(wait=30)
    assert again.attempt == 1
    assert await other.close() is False
    for asked in (other.claim(), other.heartbeat(), other.complete(task)):
        with pytest.raises(reasons.SessionNotFound):
            await asked
    await session.complete(again)
    (late,) = await session.report([Report(ref=task.ref, complete=CompleteActivity())])
    assert late.status == ReportResult.STATUS_REFUSED


async def test_a_run_is_advanced_by_reports(client: Client, session: Session) -> None:
    run = await client.start_run("book", 1)
    (task,) = await session.claim("run", wait=30)

    code = code_of(session, task)
    assert (await code.wait(code.activity(type="render"))).status == ACCEPTED
    (activity,) = await session.claim("activity", wait=30)
    await session.complete(activity, 42)
    (again,) = await session.claim("run", wait=30)
    assert [(step.kind, step.result.json) async for step in session.steps_of(again)] == [
        (types_pb2.STEP_KIND_ACTIVITY, "42")
    ]
    code.task = again
    assert (await code.complete(value="done")).status == ACCEPTED
    assert await run.result() == "done"


async def test_steps_that_a_task_could_not_carry_are_read(client: Client, session: Session) -> None:
    await client.start_run("book", 1)
    (task,) = await session.claim("run", wait=30)

    code = code_of(session, task)
    for _ in range(3):
        assert (await code.tell(*(code.local("x" * 100_000) for _ in range(8)))).status == ACCEPTED
    await session.release(task)
    (again,) = await session.claim("run", wait=30)
    assert again.more_steps
    assert [step.ordinal async for step in session.steps_of(again)] == list(range(1, 25))


async def test_a_claim_whose_answer_is_lost_is_not_repeated(server: Replica) -> None:
    """What it took would be nobody's until the session ends."""
    calls: list[float] = []

    async def lost(_: object, **options: Any) -> None:
        calls.append(options["timeout"])
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")

    async with await Client.connect(server.service.address, call_timeout=1) as client:
        session = await client.open_session("nightly", activity_types=["render"])
        session._stub.ClaimTasks = lost  # type: ignore[assignment]
        with pytest.raises(ServiceError):
            await session.claim(wait=3)
    assert len(calls) == 1
    assert 12 < calls[0] < 14


async def test_bad_input_is_refused_by_its_name(client: Client, session: Session) -> None:
    with pytest.raises(reasons.InvalidField, match="worker_id"):
        await client.open_session("")
    with pytest.raises(reasons.InvalidField, match="max_tasks"):
        await session.claim(max_tasks=257)
    with pytest.raises(reasons.InvalidField, match="reports"):
        await session.report([])


async def test_without_asyncio(server: Replica) -> None:
    def work() -> None:
        with (
            sync.Client.connect(server.service.address) as client,
            client.open_session("nightly", activity_types=["render"]) as session,
        ):
            jobs = [client.start_job("render", number) for number in range(4)]
            tasks = [session.claim("activity", wait=30)[0] for _ in jobs]
            assert [session.input_of(task, int) for task in tasks] == [0, 1, 2, 3]
            assert list(session.steps_of(tasks[0])) == []
            assert session.details_of(tasks[0]) is None
            assert not any(beat.lost for beat in session.heartbeat(tasks, "half"))
            session.complete(tasks[0], "done")
            session.fail(tasks[1], ApplicationError("no", non_retryable=True))
            session.release(tasks[2])
            assert jobs[3].cancel()
            session.cancelled(tasks[3])
            (repeated,) = session.report([Report(correlation=7, ref=tasks[3].ref, cancelled=CancelledActivity())])
            assert (repeated.correlation, repeated.status) == (7, ReportResult.STATUS_DUPLICATE)
            assert session.session_id
            assert session.ttl == 60
            assert [job.describe().state for job in jobs] == [
                jobs_pb2.JOB_STATE_COMPLETED,
                jobs_pb2.JOB_STATE_FAILED,
                jobs_pb2.JOB_STATE_PENDING,
                jobs_pb2.JOB_STATE_CANCELLED,
            ]

    await asyncio.to_thread(work)
