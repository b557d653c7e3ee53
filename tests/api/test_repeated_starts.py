"""Starts that are answered with what is open under their name, repeated when that has ended: they start nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import jobs_pb2, runs_pb2, schedules_pb2, transactions_pb2

USE_EXISTING = runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
REUSED = ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


def start_of(**fields: Any) -> runs_pb2.StartRunRequest:
    given = {"type": "t", "workflow_id": "w", "conflict_policy": USE_EXISTING, "request_id": "r", **fields}
    return runs_pb2.StartRunRequest(**given)


async def start(service: Service, **fields: Any) -> tuple[str, bool]:
    answer = await service.runs.StartRun(start_of(**fields), timeout=TIMEOUT)
    return answer.run_id, answer.started


async def test_a_start_that_found_a_run_finds_it_again_when_that_has_ended(service: Service, database_url: str) -> None:
    """On any replica, one by one or in a batch; another request with the id is refused."""
    open_id = await service.begin(workflow_id="w")
    assert await start(service) == (open_id, False)
    await service.end(open_id)
    async with serving(database_url) as other:
        assert await start(other) == (open_id, False)
        batch = runs_pb2.BatchStartRunsRequest(requests=[start_of(), start_of(type="u")])
        again, reused = (await other.runs.BatchStartRuns(batch, timeout=TIMEOUT)).results
        assert (again.started.run_id, again.started.started) == (open_id, False)
        assert reused.WhichOneof("outcome") == "error"
        assert await refusal(start(other, type="u")) == REUSED
    new_id, is_new = await start(service, request_id="s")
    assert is_new
    assert new_id != open_id


async def test_a_signal_with_start_is_given_once(service: Service) -> None:
    """Whether it found its run or started one: its repeat after the end does neither again."""
    open_id = await service.begin(workflow_id="w")
    for run_id, request_id in ((open_id, "found"), (None, "made")):
        run = runs_pb2.StartRunRequest(type="t", workflow_id="w")
        request = runs_pb2.SignalWithStartRunRequest(start=run, signal_name="s", request_id=request_id)
        first = await service.runs.SignalWithStartRun(request, timeout=TIMEOUT)
        assert (first.run_id == run_id, first.started) == (run_id is not None, run_id is None)
        await service.end(first.run_id)
        assert await service.runs.SignalWithStartRun(request, timeout=TIMEOUT) == first
        request.signal_name = "t"
        assert await refusal(service.runs.SignalWithStartRun(request, timeout=TIMEOUT)) == REUSED


async def test_a_start_that_made_its_run_is_recognised_by_that(service: Service) -> None:
    run_id, is_new = await start(service)
    assert is_new
    assert await start(service) == (run_id, False)
    await service.end(run_id)
    assert await start(service) == (run_id, False)
    assert await refusal(start(service, type="u")) == REUSED


async def test_two_replicas_answer_one_request_alike(service: Service, database_url: str) -> None:
    open_id = await service.begin(workflow_id="w")
    async with serving(database_url) as other:
        for number in range(5):
            requests = [start((service, other)[place % 2], request_id=f"r{number}") for place in range(6)]
            assert set(await asyncio.gather(*requests)) == {(open_id, False)}


async def test_in_a_commit_a_start_keeps_its_own_id(service: Service) -> None:
    run_id = await service.begin(workflow_id="w")
    write = transactions_pb2.CommitRequest.Write(start_run=start_of())
    request = transactions_pb2.CommitRequest(writes=[write])
    answer = (await service.transactions.Commit(request, timeout=TIMEOUT)).results[0].start_run
    assert (answer.run_id, answer.started) == (run_id, False)


async def test_a_job_that_was_found_is_found_again_when_it_has_ended(service: Service) -> None:
    fields: dict[str, Any] = {"type": "t", "task_queue": "q", "unique_key": "u"}
    found = await service.jobs.StartJob(jobs_pb2.StartJobRequest(**fields), timeout=TIMEOUT)
    uses = jobs_pb2.JOB_CONFLICT_POLICY_USE_EXISTING
    request = jobs_pb2.StartJobRequest(**fields, conflict_policy=uses, request_id="r")
    first = await service.jobs.StartJob(request, timeout=TIMEOUT)
    await service.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=found.job_id), timeout=TIMEOUT)
    again = await service.jobs.StartJob(request, timeout=TIMEOUT)
    assert (first.job_id, again.job_id, again.started) == (found.job_id, found.job_id, False)


# --- schedules --------------------------------------------------------------------------------------------------------


async def scheduled(service: Service, name: str) -> None:
    schedule: dict[str, Any] = {"name": name, "spec": {"cron": "@yearly"}, "run": {"type": "t", "task_queue": "q"}}
    request = schedules_pb2.CreateScheduleRequest(schedule=schedule)  # type: ignore[arg-type]
    await service.schedules.CreateSchedule(request, timeout=TIMEOUT)


async def trigger(service: Service, **fields: Any) -> tuple[str, bool]:
    request = schedules_pb2.TriggerScheduleRequest(**{"name": "a", "request_id": "r", **fields})
    answer = await service.schedules.TriggerSchedule(request, timeout=TIMEOUT)
    return answer.run_id, answer.started


async def test_a_repeated_trigger_with_another_body_is_refused(service: Service) -> None:
    for name in "ab":
        await scheduled(service, name)
    run_id, is_new = await trigger(service)
    assert is_new
    assert await trigger(service) == (run_id, False)
    assert await refusal(trigger(service, name="b")) == REUSED
    assert await refusal(trigger(service, skip_if_open=True)) == REUSED


async def test_a_trigger_that_was_left_out_stays_so(service: Service) -> None:
    """Also when the run that it was left to has ended."""
    await scheduled(service, "a")
    open_id, _ = await trigger(service, request_id="")
    assert await trigger(service, skip_if_open=True) == (open_id, False)
    await service.end(open_id)
    assert await trigger(service, skip_if_open=True) == (open_id, False)
    assert (await trigger(service, skip_if_open=True, request_id="s"))[1]
