"""Code goes on with what its worker's own activity came to, before that is known to be recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from tests.sdk.duet import Duet, settle
from tests.sdk.fake_records import refusal
from tests.sdk.fake_service import FakeService
from tests.sdk.live import live

from stepwell import Client, Context, activity, workflow
from stepwell._ahead import go_ahead
from stepwell.v1 import types_pb2, workers_pb2
from stepwell_server import errors
from stepwell_server.model.events import EventType

calls: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def twice(ctx: Context, number: int) -> int:
    return await ctx.activity(double, await ctx.activity(double, number))


async def test_what_follows_is_recorded_with_the_completion(database_url: str) -> None:
    """Each batch has a time of its own: the second activity is of the first one's, the end of the second one's."""
    async with live(database_url) as both, both.working(workflows=[twice], activities=[double]):
        handle = await both.client.start_run(twice, 3, task_queue="default")
        assert await handle.result() == 12
        events = [event async for event in handle.history()]
    times: dict[str, list[Any]] = {}
    for event in events:
        times.setdefault(event.type, []).append(event.time)
    first, second = times["ActivityCompleted"]
    assert times["ActivityScheduled"][1] == first
    assert times["RunCompleted"] == [second]


async def _noted(ctx: Context) -> None:
    """An activity, and then something that is seen outside."""
    await ctx.activity("a")
    await ctx.step("note", calls.append, "noted")


async def at_work(program: Any) -> Duet:
    """A run that waits for an activity that its own worker is at."""
    duet = Duet(program)
    await duet.grant()
    await duet.answer()
    return duet


@pytest.mark.parametrize("is_alone", [False, True])
async def test_nothing_is_done_outside_before_the_result_is_recorded(is_alone: bool) -> None:
    """Recorded by itself, or with what the code told."""
    duet = await at_work(_noted)
    assert await duet.go_ahead(duet.named("a"))
    assert duet.host.gates == []
    # That it is at work is told at once, so that nobody takes it for a run that waits.
    assert duet.host.reported is not None
    assert (len(duet.host.reported.ahead_of), duet.host.reported.waiting) == (1, False)
    if is_alone:
        duet.complete()
    assert duet.host.gates == []
    await duet.answer()
    assert len(duet.host.gates) == 1
    await duet.open_gate()
    assert calls == ["noted"]
    await duet.go_on()
    assert duet.end == "complete"


async def test_what_followed_a_result_that_is_not_recorded_is_done_anew() -> None:
    """By whoever gets the run next, with what the record says."""
    duet = await at_work(_noted)
    assert await duet.go_ahead(duet.named("a"))
    await duet.refute()
    assert duet.host.gates == []
    duet.finish(duet.named("a"), fails=True)
    await duet.go_on()
    assert duet.end == "fail"
    assert calls == []


async def test_queries_see_what_is_recorded() -> None:
    async def program(ctx: Context) -> None:
        seen = ["begun"]
        ctx.on_query("seen", lambda: list(seen))
        seen.append(await ctx.activity("a"))
        await ctx.step("note", lambda: None)

    duet = await at_work(program)
    assert duet.run is not None
    answers: list[Any] = []
    duet.host.answer = lambda run, query, outcome: answers.append(outcome["result"].json)  # type: ignore[method-assign]
    assert await duet.go_ahead(duet.named("a"))
    duet.run.queries.ask(workers_pb2.Query(name="seen"))
    assert answers == []
    await duet.answer()
    assert answers == ['["begun","1"]']


@pytest.mark.parametrize("how", ["together", "race", "leaving", "under way"])
async def test_code_that_may_hear_of_something_else_does_not_go_ahead(how: str) -> None:
    async def program(ctx: Context) -> None:
        if how == "together":
            await ctx.gather(ctx.activity("a"), ctx.activity("b"))
        elif how == "race":
            await ctx.race(ctx.activity("a"), ctx.activity("b"))
        else:
            await ctx.activity("a")

    duet = Duet(program)
    await duet.grant()
    if how == "under way":
        duet.commit()
    else:
        await duet.answer()
    assert duet.run is not None
    if how == "leaving":
        duet.run.is_leaving = True
    assert not await duet.go_ahead(duet.named("a"))


async def test_a_result_of_another_run_is_none_of_its_business() -> None:
    duet = await at_work(_noted)
    assert duet.run is not None
    other = workers_pb2.Task(ref=workers_pb2.TaskRef(task_id="9.7", token=1), step_ordinal=7)
    assert not go_ahead(duet.run, other, types_pb2.Payload(json="1"))
    await settle()
    assert duet.host.reported is None


async def test_an_end_that_went_ahead_is_refused_whole() -> None:
    """The run goes on as the record says."""

    async def program(ctx: Context) -> Any:
        return await ctx.activity("a")

    duet = await at_work(program)
    assert await duet.go_ahead(duet.named("a"))
    duet.ahead = None
    with pytest.raises(errors.ResultNotRecorded):
        duet.commit()
    assert duet.world.happened(duet.key)[-1] == EventType.ACTIVITY_SCHEDULED
    await asyncio.sleep(0)


LOST = refusal(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST", "timed out")
TOO_LARGE = refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "too large")
AWAY = refusal(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away")


@pytest.mark.parametrize(
    "refusals",
    [
        pytest.param([LOST], id="its result is not recorded"),
        pytest.param([AWAY], id="nor could it be at once"),
        # What the code made of it may be wrong in itself: that is not the run's fault, also if it hears so first.
        pytest.param([LOST, TOO_LARGE], id="nor is what came of it right"),
        pytest.param([LOST, AWAY], id="nor could it be seen at once whether it is"),
    ],
)
@pytest.mark.parametrize("has_effects", [False, True])
async def test_a_run_that_went_on_with_what_is_refused_is_given_back(
    service: FakeService,
    client: Client,
    working: Callable[..., Any],
    has_effects: bool,
    refusals: list[status_pb2.Status],
) -> None:
    """Then it comes to what the next attempt comes to, and nothing was done with the first one's result."""
    attempts = 0

    @activity
    async def charge() -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            service.refuse_next, service.answers_backwards = list(refusals), TOO_LARGE in refusals
        return attempts

    @workflow
    async def order(ctx: Context) -> int:
        number = await ctx.activity(charge)
        if has_effects:
            await ctx.step("note", calls.append, f"charged {number}")
        return number

    async with working(workflows=[order], activities=[charge]):
        handle = await client.start_run(order)
        await service.until(lambda: service.released)
        service.lose(*service.activities.values())
        assert await handle.result() == 2
    assert calls == (["charged 2"] if has_effects else [])


@pytest.mark.parametrize("task_id", ["2.1", "1.0", "1.job", "nonsense", ""])
async def test_only_an_activity_of_the_run_is_what_it_went_ahead_of(task_id: str) -> None:
    """Refused at the boundary, by the name of the field."""
    duet = await at_work(_noted)
    progress = workers_pb2.Progress(ahead_of=[workers_pb2.TaskRef(task_id=task_id, token=1)])
    report = workers_pb2.Report(progress=progress)
    with pytest.raises(errors.InvalidField) as refused:
        duet.reader.read(report, (1, 0), "reports[3].", resident=True)
    assert refused.value.field == "reports[3].progress.ahead_of[0].task_id"
