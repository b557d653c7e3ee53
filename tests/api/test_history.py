"""A run's events and steps over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.service import TIMEOUT, Holder, Service, refusal, serving

from stepwell.v1 import history_pb2, runs_pb2, types_pb2
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.reported import Checkpoint, NewStep, NewTimer, NewWait
from stepwell_server.model.payloads import DATA, JSON, Payload
from stepwell_server.model.steps import Kind

ENGINE, CALLER = history_pb2.EVENT_ORIGIN_ENGINE, history_pb2.EVENT_ORIGIN_CALLER


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


def step(name: str, kind: Kind, body: Any) -> NewStep:
    return NewStep("", name, 0, "", b"", kind, body)


async def events(service: Service, run_id: str, **fields: Any) -> list[Any]:
    """All pages of a run's history."""
    listed: list[Any] = []
    token = ""
    while True:
        request = history_pb2.ListEventsRequest(run_id=run_id, page_token=token, **fields)
        response = await service.history.ListEvents(request, timeout=TIMEOUT)
        assert response.events
        listed += response.events
        token = response.next_page_token
        if not token:
            return listed


async def steps(service: Service, run_id: str, **fields: Any) -> list[Any]:
    """All pages of a run's steps."""
    listed: list[Any] = []
    token = ""
    while True:
        request = runs_pb2.ListRunStepsRequest(run_id=run_id, page_token=token, **fields)
        response = await service.runs.ListRunSteps(request, timeout=TIMEOUT)
        listed += response.steps
        token = response.next_page_token
        if not token:
            return listed


async def signal(service: Service, run_id: str, size: int) -> None:
    request = runs_pb2.SignalRunRequest(run_id=run_id, signal_name="s", payload=types_pb2.Payload(data=bytes(size)))
    await service.runs.SignalRun(request, timeout=TIMEOUT)


async def test_events_are_listed_in_both_directions(service: Service) -> None:
    """Numbers have no gap, also over pages; each event says what came with it."""
    run_id = await service.begin(input={"json": "1"})
    for _ in range(5):
        await signal(service, run_id, 1)
    await service.end(run_id)
    listed = await events(service, run_id, page_size=2)
    assert [event.number for event in listed] == list(range(1, 8))
    assert (listed[0].type, listed[0].payload.json, listed[0].origin) == ("RunStarted", "1", ENGINE)
    assert (listed[1].type, listed[1].payload.data, dict(listed[1].attributes)) == (
        "SignalReceived",
        b"\0",
        {"ordinal": "1", "signal": "s"},
    )
    assert (listed[-1].type, listed[-1].failure.message) == ("RunTerminated", "test")
    assert not listed[-1].HasField("payload")
    assert len({event.event_number for event in listed}) == 7
    assert await events(service, run_id, page_size=3, descending=True) == listed[::-1]


async def test_events_are_filtered_by_origin(service: Service) -> None:
    run_id = await service.begin()
    assert len(await events(service, run_id, origin=ENGINE)) == 1
    request = history_pb2.ListEventsRequest(run_id=run_id, origin=CALLER)
    assert list((await service.history.ListEvents(request)).events) == []
    wrong = history_pb2.ListEventsRequest(run_id=run_id, origin=9)  # type: ignore[arg-type]
    assert (await refusal(service.history.ListEvents(wrong)))[1] == "INVALID_FIELD"


@pytest.mark.parametrize("descending", [False, True])
async def test_a_page_of_large_events_fits_a_message(service: Service, descending: bool) -> None:
    """A page ends where a message would be full, and the next goes on from there."""
    run_id = await service.begin()
    for _ in range(5):
        await signal(service, run_id, 1_500_000)
    first = await service.history.ListEvents(history_pb2.ListEventsRequest(run_id=run_id, descending=descending))
    assert first.ByteSize() < 4 * 1024 * 1024
    assert 2 <= len(first.events) <= 3
    numbers = [event.number for event in await events(service, run_id, descending=descending)]
    assert numbers == (list(range(6, 0, -1)) if descending else list(range(1, 7)))


async def test_steps_are_listed_open_and_ended_alike(service: Service) -> None:
    """In the order of their creation, with what they were given and what they came to; filtered by state."""
    run_id = await service.begin(task_queue="q")
    holder = await Holder.of(service, "q")
    await holder.record(
        step("check", Kind.LOCAL, Checkpoint(Payload(JSON, b"1"))),
        step("nap", Kind.TIMER, NewTimer(60)),
        step("call", Kind.ACTIVITY, NewActivity("a", "workers", Payload(JSON, b"2"))),
        step("wait", Kind.WAIT, NewWait("s")),
    )
    await signal(service, run_id, 3)
    for page_size in (1, 3, 50):
        listed = await steps(service, run_id, page_size=page_size)
        assert [each.name for each in listed] == ["check", "nap", "call", "wait"]
        assert [each.ordinal for each in listed] == [1, 2, 3, 4]
    check, nap, call, wait = listed
    assert (check.state, check.result.json) == (types_pb2.STEP_STATE_COMPLETED, "1")
    assert nap.HasField("wake_time")
    assert nap.completion == 0
    assert (call.type, call.task_queue, call.input.json) == ("a", "workers", "2")
    assert not call.HasField("result")
    assert (wait.wait_name, wait.state, wait.result.data) == ("s", types_pb2.STEP_STATE_COMPLETED, b"\0\0\0")
    assert not wait.HasField("input")
    assert wait.completion > check.completion > 0
    done = await steps(service, run_id, states=[types_pb2.STEP_STATE_COMPLETED])
    assert [each.name for each in done] == ["check", "wait"]
    assert [each.name for each in await steps(service, run_id, states=[types_pb2.STEP_STATE_PENDING])] == ["call"]
    assert (await service.get(run_id)).cursor == 2
    named = {event.step_name for event in await events(service, run_id) if event.step_ordinal}
    assert named == {"check", "nap", "call", "wait"}


async def test_a_page_of_large_steps_fits_a_message(service: Service) -> None:
    run_id = await service.begin(task_queue="q")
    holder = await Holder.of(service, "q")
    large = Checkpoint(Payload(DATA, bytes(1_500_000)))
    await holder.record(*(step(f"s{n}", Kind.LOCAL, large) for n in range(5)))
    first = await service.runs.ListRunSteps(runs_pb2.ListRunStepsRequest(run_id=run_id))
    assert len(first.steps) == 2
    assert [each.name for each in await steps(service, run_id)] == [f"s{n}" for n in range(5)]


async def test_a_run_without_steps_has_an_empty_page(service: Service) -> None:
    assert await steps(service, await service.begin()) == []


async def test_the_history_of_nobody_is_not_found(service: Service) -> None:
    request = history_pb2.ListEventsRequest(workflow_id="none")
    assert await refusal(service.history.ListEvents(request)) == ("NOT_FOUND", "RUN_NOT_FOUND")
