"""Jobs over the wire: starting them once, finding, listing, cancelling and retrying them, and what is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tests.service import TIMEOUT, Service, reason_of, refusal, serving

from stepwell.v1 import jobs_pb2, namespaces_pb2, types_pb2
from stepwell_server.engine.activities import CompleteActivity, FailActivity, Outcome
from stepwell_server.engine.committer import Claim
from stepwell_server.ids import uuid7
from stepwell_server.model.jobs import JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import JSON, Failure, Payload
from stepwell_server.model.tasks import JobGrant, TaskKind

PENDING, RUNNING = jobs_pb2.JOB_STATE_PENDING, jobs_pb2.JOB_STATE_RUNNING
COMPLETED, FAILED = jobs_pb2.JOB_STATE_COMPLETED, jobs_pb2.JOB_STATE_FAILED
CANCELLED = jobs_pb2.JOB_STATE_CANCELLED
REJECT, USE_EXISTING = jobs_pb2.JOB_REUSE_POLICY_REJECT, jobs_pb2.JOB_CONFLICT_POLICY_USE_EXISTING
GIVEN_ID = "0b6d54b0-8c1c-4c57-9b0e-0d5a1b7d9f11"
SOME_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ONCE = types_pb2.RetryPolicy(maximum_attempts=1)


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


def start(**fields: Any) -> jobs_pb2.StartJobRequest:
    return jobs_pb2.StartJobRequest(**{"type": "t", **fields})


async def started(service: Service, **fields: Any) -> tuple[str, bool]:
    response = await service.jobs.StartJob(start(**fields), timeout=TIMEOUT)
    return response.job_id, response.started


async def begin(service: Service, **fields: Any) -> str:
    return (await started(service, **fields))[0]


async def refused(service: Service, **fields: Any) -> str:
    return (await refusal(service.jobs.StartJob(start(**fields), timeout=TIMEOUT)))[1]


async def get(service: Service, job_id: str, namespace: str = "") -> Any:
    request = jobs_pb2.GetJobRequest(namespace=namespace, job_id=job_id)
    return (await service.jobs.GetJob(request, timeout=TIMEOUT)).job


async def cancel(service: Service, job_id: str, reason: str = "") -> Any:
    return await service.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id, reason=reason), timeout=TIMEOUT)


async def claim(service: Service, queue: str = "default") -> JobGrant:
    order = Claim(1, "main", queue, TaskKind.ACTIVITY, ("t",), uuid7(), "worker", (), 1)
    (grant,) = await service.committers.do(list, order)
    assert isinstance(grant, JobGrant)
    return grant


async def complete(service: Service, grant: JobGrant, body: bytes = b'"done"') -> None:
    ref = JobRef(1, "main", grant.job.job_key)
    order = CompleteActivity(ref, JOB_ORDINAL, grant.session_id, grant.token, Payload(JSON, body))
    assert await service.committers.do(Outcome, order) == Outcome()


async def fail(service: Service, grant: JobGrant, failure: Failure) -> None:
    ref = JobRef(1, "main", grant.job.job_key)
    order = FailActivity(ref, JOB_ORDINAL, grant.session_id, grant.token, failure)
    assert await service.committers.do(Outcome, order) == Outcome()


async def failed(service: Service, **fields: Any) -> str:
    job_id = await begin(service, retry=ONCE, **fields)
    await fail(service, await claim(service), Failure("no luck", "ValueError"))
    return job_id


async def listed(service: Service, **fields: Any) -> list[str]:
    """All pages of a list."""
    found: list[str] = []
    token = ""
    while True:
        response = await service.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_token=token, **fields), timeout=TIMEOUT)
        found += [job.job_id for job in response.jobs]
        token = response.next_page_token
        if not token:
            return found


# --- starting ---------------------------------------------------------------------------------------------------------


async def test_a_started_job_is_as_it_was_asked_for(service: Service) -> None:
    """Every field that a start gives can be read back, with the defaults for the others."""
    request = start(
        unique_key="invoice-17",
        job_id=GIVEN_ID,
        task_queue="q",
        input=types_pb2.Payload(json='{"a": 1}', metadata={"encoding": "plain"}),
        priority=0,
        retry=types_pb2.RetryPolicy(
            initial_interval=Duration(seconds=2),
            backoff_coefficient=3.0,
            maximum_interval=Duration(seconds=9),
            maximum_attempts=4,
            non_retryable_types=["ValueError"],
        ),
        schedule_to_start_timeout={"seconds": 11},
        schedule_to_close_timeout={"seconds": 12},
        start_to_close_timeout={"seconds": 13},
        heartbeat_timeout={"seconds": 14},
        start_delay={"seconds": 15},
        retention={"seconds": 16},
        correlation_id="c",
    )
    metadata = (("traceparent", SOME_TRACE),)
    assert (await service.jobs.StartJob(request, timeout=TIMEOUT, metadata=metadata)).job_id == GIVEN_ID
    job = await get(service, GIVEN_ID)
    assert (job.namespace, job.unique_key, job.type, job.task_queue) == ("main", "invoice-17", "t", "q")
    assert (job.input, job.priority, job.correlation_id, job.traceparent) == (request.input, 0, "c", SOME_TRACE)
    assert (job.state, job.attempt, job.retry, job.retention) == (PENDING, 0, request.retry, request.retention)
    for name in ("schedule_to_start", "schedule_to_close", "start_to_close", "heartbeat"):
        assert getattr(job, f"{name}_timeout") == getattr(request, f"{name}_timeout")
    assert job.schedule_time.ToDatetime() - job.create_time.ToDatetime() == request.start_delay.ToTimedelta()
    assert job.wake_time == job.schedule_time
    assert not job.HasField("end_time")
    other = await get(service, await begin(service))
    assert (other.task_queue, other.priority, other.unique_key) == ("default", 4, "")
    assert other.retention.seconds == 7 * 86_400
    assert not other.HasField("retry")
    assert other.input == types_pb2.Payload()


async def test_one_unique_key_has_one_open_job(service: Service) -> None:
    """The second start is refused, or finds the first, as its conflict policy says; after its end, as its reuse."""
    first = await begin(service, unique_key="u")
    assert await refused(service, unique_key="u") == "UNIQUE_KEY_IN_USE"
    assert await started(service, unique_key="u", conflict_policy=USE_EXISTING) == (first, False)
    assert (await cancel(service, first)).accepted
    assert await refused(service, unique_key="u", reuse_policy=REJECT) == "JOB_EXISTS"
    second, is_new = await started(service, unique_key="u", conflict_policy=USE_EXISTING)
    assert is_new
    assert await listed(service, unique_key="u") == [second, first]


async def test_a_repeated_request_finds_its_job(service: Service) -> None:
    """Also when it has ended, by the id that follows from the request's; a run of the same request id is another."""
    first, is_new = await started(service, request_id="r", input=types_pb2.Payload(json="1"))
    assert is_new
    await cancel(service, first)
    assert await started(service, request_id="r", input=types_pb2.Payload(json="1")) == (first, False)
    assert await refused(service, request_id="r", input=types_pb2.Payload(json="2")) == "REQUEST_ID_REUSED"
    assert await refused(service, job_id=first) == "JOB_EXISTS"
    assert await service.begin(request_id="r") != first


async def test_of_many_starts_at_once_one_gets_the_key(service: Service) -> None:
    answers = await asyncio.gather(*(started(service, unique_key="u", conflict_policy=USE_EXISTING) for _ in range(40)))
    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1


async def test_each_of_a_batch_has_an_answer_of_its_own(service: Service) -> None:
    requests = [start(unique_key="u"), start(unique_key="u"), start(type=""), start(namespace="other"), start()]
    batch = jobs_pb2.BatchStartJobsRequest(requests=requests)
    first, second, third, fourth, fifth = (await service.jobs.BatchStartJobs(batch, timeout=TIMEOUT)).results
    assert first.started.started
    assert fifth.started.started
    reasons = [reason_of(each.error) for each in (second, third, fourth)]
    assert reasons == ["UNIQUE_KEY_IN_USE", "INVALID_FIELD", "INVALID_FIELD"]
    assert len(await listed(service)) == 2


async def test_a_large_input_comes_back_whole(service: Service) -> None:
    given = types_pb2.Payload(data=bytes(range(256)) * 8_192)
    job_id = await begin(service, input=given)
    assert (await get(service, job_id)).input == given
    await complete(service, await claim(service), b'"%s"' % (b"x" * 1_000_000))
    job = await get(service, job_id)
    assert job.input == given
    assert len(job.result.json) == 1_000_002


BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": ""}, "type"),
    ({"type": "a\0b"}, "type"),
    ({"type": "x" * 256}, "type"),
    ({"task_queue": "a\nb"}, "task_queue"),
    ({"unique_key": "é" * 128}, "unique_key"),
    ({"job_id": "17"}, "job_id"),
    ({"priority": 10}, "priority"),
    ({"priority": -1}, "priority"),
    ({"input": types_pb2.Payload(data=bytes(2 * 1024 * 1024 + 1))}, "input"),
    ({"reuse_policy": 9}, "reuse_policy"),
    ({"conflict_policy": 9}, "conflict_policy"),
    ({"start_delay": Duration(seconds=-1)}, "start_delay"),
    ({"retention": Duration(seconds=11 * 366 * 86_400)}, "retention"),
    ({"heartbeat_timeout": Duration(seconds=-1)}, "heartbeat_timeout"),
    ({"retry": types_pb2.RetryPolicy(backoff_coefficient=0.5)}, "retry.backoff_coefficient"),
    ({"retry": types_pb2.RetryPolicy(backoff_coefficient=math.nan)}, "retry.backoff_coefficient"),
    ({"retry": types_pb2.RetryPolicy(maximum_attempts=-1)}, "retry.maximum_attempts"),
    ({"request_id": "x" * 256}, "request_id"),
    ({"namespace": "a b"}, "namespace"),
    ({"namespace": "-"}, "namespace"),
]


@pytest.mark.parametrize(("fields", "field"), BAD, ids=lambda each: each if isinstance(each, str) else "")
async def test_a_bad_start_is_refused_by_its_field(service: Service, fields: dict[str, Any], field: str) -> None:
    batch = jobs_pb2.BatchStartJobsRequest(requests=[start(), start(**fields)])
    results = (await service.jobs.BatchStartJobs(batch, timeout=TIMEOUT)).results
    assert reason_of(results[1].error) == "INVALID_FIELD"
    assert f"requests[1].{field}" in results[1].error.message
    assert await listed(service) == [results[0].started.job_id]


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_what_names_no_job_is_told_so(service: Service) -> None:
    """An unknown id, one of another namespace, a run's, and one that is none."""
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="b"))
    theirs, run_id = await begin(service, namespace="b"), await service.begin()
    assert (await get(service, theirs, "b")).namespace == "b"
    calls = (
        (service.jobs.GetJob, jobs_pb2.GetJobRequest),
        (service.jobs.WaitJob, jobs_pb2.WaitJobRequest),
        (service.jobs.CancelJob, jobs_pb2.CancelJobRequest),
        (service.jobs.RetryJob, jobs_pb2.RetryJobRequest),
    )
    for call, request in calls:
        for job_id in (GIVEN_ID, theirs, run_id):
            assert await refusal(call(request(job_id=job_id), timeout=TIMEOUT)) == ("NOT_FOUND", "JOB_NOT_FOUND")
        assert (await refusal(call(request(job_id="x"), timeout=TIMEOUT)))[1] == "INVALID_FIELD"
        nowhere = request(job_id=theirs, namespace="c")
        assert (await refusal(call(nowhere, timeout=TIMEOUT)))[1] == "NAMESPACE_NOT_FOUND"


async def test_jobs_are_listed_newest_first_by_what_is_asked(service: Service) -> None:
    """Open and ended ones in one order, page by page, and only those that fit."""
    done = await begin(service)
    await complete(service, await claim(service))
    broken = await failed(service, correlation_id="c")
    waiting = await begin(service, task_queue="q")
    other = await begin(service, type="other")
    assert await listed(service, page_size=1) == [other, waiting, broken, done]
    assert await listed(service, skip=2) == [broken, done]
    assert await listed(service, states=[PENDING]) == [other, waiting]
    assert await listed(service, states=[FAILED, COMPLETED]) == [broken, done]
    assert await listed(service, states=[FAILED, PENDING]) == [other, waiting, broken]
    assert await listed(service, type="other") == [other]
    assert await listed(service, task_queue="q") == [waiting]
    assert await listed(service, correlation_id="c") == [broken]
    assert await listed(service, unique_key="u") == []
    page = await service.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1), timeout=TIMEOUT)
    astray = jobs_pb2.ListJobsRequest(page_token=page.next_page_token, type="t")
    assert (await refusal(service.jobs.ListJobs(astray, timeout=TIMEOUT)))[1] == "PAGE_TOKEN_INVALID"
    wrong = jobs_pb2.ListJobsRequest(states=[jobs_pb2.JOB_STATE_UNSPECIFIED])
    assert (await refusal(service.jobs.ListJobs(wrong, timeout=TIMEOUT)))[1] == "INVALID_FIELD"


async def test_a_running_and_an_ended_job_show_what_became_of_them(service: Service) -> None:
    job_id = await begin(service, retention=Duration(seconds=60))
    grant = await claim(service)
    job = await get(service, job_id)
    assert (job.state, job.attempt, job.owner_id) == (RUNNING, 1, "worker")
    await complete(service, grant)
    job = await get(service, job_id)
    assert (job.state, job.result.json, job.HasField("failure")) == (COMPLETED, '"done"', False)
    assert job.expire_time.ToDatetime() - job.end_time.ToDatetime() == job.retention.ToTimedelta()
    broken = await get(service, await failed(service))
    assert (broken.state, broken.failure.type, broken.HasField("result")) == (FAILED, "ValueError", False)


# --- steering ---------------------------------------------------------------------------------------------------------


async def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(service: Service) -> None:
    job_id = await begin(service)
    answer = await cancel(service, job_id, "enough")
    assert (answer.accepted, answer.state) == (True, CANCELLED)
    job = await get(service, job_id)
    assert (job.state, job.cancel_request.reason) == (CANCELLED, "enough")
    assert not (await cancel(service, job_id)).accepted
    running = await begin(service)
    grant = await claim(service)
    answer = await cancel(service, running)
    assert (answer.accepted, answer.state) == (True, RUNNING)
    assert not (await cancel(service, running)).accepted
    await complete(service, grant)
    assert (await get(service, running)).state == COMPLETED


async def test_only_a_failed_job_is_retried(service: Service) -> None:
    """It begins anew, and says how often it did and why it failed before."""
    job_id = await failed(service, input=types_pb2.Payload(json="1"))
    retry = jobs_pb2.RetryJobRequest(job_id=job_id)
    assert (await service.jobs.RetryJob(retry, timeout=TIMEOUT)).state == PENDING
    job = await get(service, job_id)
    assert (job.state, job.retry_count, job.attempt, job.last_failure.type) == (PENDING, 1, 0, "ValueError")
    assert job.input.json == "1"
    refused = ("FAILED_PRECONDITION", "JOB_NOT_FAILED")
    assert await refusal(service.jobs.RetryJob(retry, timeout=TIMEOUT)) == refused
    grant = await claim(service)
    assert UUID(job_id) == grant.job.job_id
    await complete(service, grant)
    assert await refusal(service.jobs.RetryJob(retry, timeout=TIMEOUT)) == refused
    assert (await get(service, job_id)).state == COMPLETED


async def test_a_namespace_with_jobs_is_not_deleted(service: Service) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="b"))
    await begin(service, namespace="b")
    request = namespaces_pb2.DeleteNamespaceRequest(namespace="b")
    assert (await refusal(service.namespace_calls.DeleteNamespace(request)))[1] == "NAMESPACE_NOT_EMPTY"
