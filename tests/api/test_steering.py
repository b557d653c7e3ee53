"""Runs over the wire: signalled, also together with their start, cancelled, terminated, paused and resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from tests.api.run_calls import listed, start
from tests.service import TIMEOUT, Service, reason_of, refusal, serving

from stepwell.v1 import runs_pb2, types_pb2

CANCELLED, TERMINATED = types_pb2.RUN_PHASE_CANCELLED, types_pb2.RUN_PHASE_TERMINATED
REJECT = runs_pb2.WORKFLOW_ID_REUSE_POLICY_REJECT


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def test_a_signal_is_recorded_once(service: Service) -> None:
    """A repeat under its request id is recognised; a terminal run refuses."""
    run_id = await service.begin(workflow_id="w")
    request = runs_pb2.SignalRunRequest(
        workflow_id="w", signal_name="s", payload=types_pb2.Payload(json="1"), request_id="r"
    )
    first = await service.runs.SignalRun(request, timeout=TIMEOUT)
    assert (first.run_id, first.recorded) == (run_id, True)
    again = await service.runs.SignalRun(request, timeout=TIMEOUT)
    assert (again.signal_number, again.recorded) == (first.signal_number, False)
    assert (await service.get(run_id)).event_count == 2
    await service.end(run_id)
    late = await service.runs.SignalRun(request, timeout=TIMEOUT)
    assert (late.signal_number, late.recorded) == (first.signal_number, False), "a repeat after the end is a repeat"
    other = runs_pb2.SignalRunRequest(run_id=run_id, signal_name="s")
    assert (await refusal(service.runs.SignalRun(other)))[0] == "FAILED_PRECONDITION"
    assert (await refusal(service.runs.SignalRun(runs_pb2.SignalRunRequest(run_id=run_id))))[1] == "INVALID_FIELD"


async def test_signals_in_a_batch_have_answers_of_their_own(service: Service) -> None:
    await service.begin(workflow_id="w")
    signal = runs_pb2.SignalRunRequest
    items = [
        signal(workflow_id="w", signal_name="a"),
        signal(workflow_id="none", signal_name="a"),
        signal(workflow_id="w", signal_name="a", namespace="other"),
        signal(run_id="17", signal_name="a"),
        signal(workflow_id="w", signal_name="b"),
    ]
    request = runs_pb2.BatchSignalRunsRequest(requests=items)
    results = (await service.runs.BatchSignalRuns(request, timeout=TIMEOUT)).results
    reasons = [reason_of(each.error) if each.HasField("error") else each.signalled.recorded for each in results]
    assert reasons == [True, "RUN_NOT_FOUND", "INVALID_FIELD", "INVALID_FIELD", True]


def with_start(**fields: Any) -> runs_pb2.SignalWithStartRunRequest:
    return runs_pb2.SignalWithStartRunRequest(start=start(workflow_id="w"), signal_name="s", **fields)


async def test_signal_with_start_starts_or_finds(service: Service) -> None:
    """One call starts and signals, the next finds and signals, one after the end starts anew."""
    first = await service.runs.SignalWithStartRun(with_start(request_id="r"), timeout=TIMEOUT)
    second = await service.runs.SignalWithStartRun(with_start(), timeout=TIMEOUT)
    repeat = await service.runs.SignalWithStartRun(with_start(request_id="r"), timeout=TIMEOUT)
    assert (second.run_id, second.started, repeat) == (first.run_id, False, first)
    assert (await service.get(first.run_id)).event_count == 3
    await service.end(first.run_id)
    third = await service.runs.SignalWithStartRun(with_start(), timeout=TIMEOUT)
    assert third.started
    assert (await service.get(third.run_id)).event_count == 2


async def test_signal_with_start_is_both_or_neither(service: Service) -> None:
    """What refuses the start leaves no signal; what is wrong with the signal starts nothing."""
    first = await service.begin(workflow_id="w")
    await service.end(first)
    rejecting = with_start()
    rejecting.start.reuse_policy = REJECT
    assert (await refusal(service.runs.SignalWithStartRun(rejecting)))[1] == "RUN_EXISTS"
    nameless = with_start()
    nameless.signal_name = ""
    assert (await refusal(service.runs.SignalWithStartRun(nameless)))[1] == "INVALID_FIELD"
    assert [run.run_id for run in await listed(service)] == [first]


async def test_signals_with_start_at_the_same_time_meet_in_one_run(service: Service) -> None:
    """Over two replicas and among other calls for the run: one start, and no signal is lost."""
    async with serving(service.settings.database_url or "") as other:
        calls = [each.runs.SignalWithStartRun(with_start(), timeout=TIMEOUT) for each in (service, other) * 25]
        answers = await asyncio.gather(*calls)
    assert sum(answer.started for answer in answers) == 1
    (run,) = await listed(service)
    assert run.event_count == 51


async def test_a_run_that_nobody_has_begun_cancels_at_once(service: Service) -> None:
    run_id = await service.begin(workflow_id="w")
    request = runs_pb2.CancelRunRequest(workflow_id="w", reason="enough")
    answer = await service.runs.CancelRun(request, timeout=TIMEOUT)
    assert (answer.accepted, answer.run_id, answer.phase) == (True, run_id, CANCELLED)
    again = await service.runs.CancelRun(request, timeout=TIMEOUT)
    assert (again.accepted, again.phase) == (False, CANCELLED)
    run = await service.get(run_id)
    assert (run.phase, run.cancel_request.reason) == (CANCELLED, "enough")
    assert run.HasField("end_time")


async def test_a_terminated_run_says_why(service: Service) -> None:
    run_id = await service.begin(input={"json": "1"})
    request = runs_pb2.TerminateRunRequest(run_id=run_id, reason="enough")
    assert (await service.runs.TerminateRun(request, timeout=TIMEOUT)).accepted
    assert not (await service.runs.TerminateRun(request, timeout=TIMEOUT)).accepted
    run = await service.get(run_id)
    assert (run.phase, run.failure.message, run.input.json) == (TERMINATED, "enough", "1")
    assert not run.HasField("result")


async def test_a_run_pauses_and_goes_on(service: Service) -> None:
    run_id = await service.begin()
    pause = runs_pb2.PauseRunRequest(run_id=run_id, reason="maintenance")
    assert (await service.runs.PauseRun(pause, timeout=TIMEOUT)).accepted
    assert not (await service.runs.PauseRun(pause, timeout=TIMEOUT)).accepted
    assert (await service.get(run_id)).pause.reason == "maintenance"
    resume = runs_pb2.ResumeRunRequest(run_id=run_id)
    assert (await service.runs.ResumeRun(resume, timeout=TIMEOUT)).accepted
    assert not (await service.get(run_id)).HasField("pause")
    assert not (await service.runs.ResumeRun(resume, timeout=TIMEOUT)).accepted
    await service.end(run_id)
    for call in (service.runs.PauseRun(pause), service.runs.ResumeRun(resume)):
        assert (await refusal(call))[1] == "RUN_TERMINAL"
