"""Activities: taken, performed, answered for; their heartbeats, failures and cancellations."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from stepwell.conformance.cases import case
from stepwell.conformance.link import Link
from stepwell.conformance.service import ACK_SECONDS, HEARTBEAT_SECONDS
from stepwell.conformance.stage import Stage
from stepwell.context import Context
from stepwell.policies import RetryPolicy
from stepwell.v1.workers_pb2 import ConnectResponse
from stepwell.workflows import workflow

SOON = RetryPolicy(initial_interval=0.05)
LONG = {"seconds": 60.0}


@case("activities", "activities")
async def assignment(stage: Stage) -> None:
    """Activities with inputs of all forms are taken, performed and completed."""
    values = [None, True, 7, -1.5, "größe €", [], [1, [2, {}]], {"a": {"b": None}}, "x" * 200_000]
    jobs = [await stage.job("echo", value) for value in values]
    for value, job in zip(values, jobs, strict=True):
        stage.same("echo returns its input", value, await stage.result(job))


@workflow(name="kit.performs")
async def _performs(ctx: Context, told: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever the activity returns
    return await ctx.activity(told["type"], told["input"], retry=SOON, wait_cancelled=True)


@case("activities", "activities")
async def activity_of_a_run(stage: Stage) -> None:
    """An activity that belongs to a run of another worker is performed as a job is."""
    async with stage.code(_performs):
        run = await stage.run("kit.performs", {"type": "echo", "input": {"from": "a run"}})
        stage.same("the run gets the result", {"from": "a run"}, await stage.result(run))


@case("activities", "capacity", max_activities=3)
async def capacity_of_activities(stage: Stage) -> None:
    """Of twelve activities three are in work at once: all that is stated, and never more."""
    jobs = [await stage.job("effect", {"key": f"capacity/{number}", "seconds": 0.4}) for number in range(12)]
    for job in jobs:
        await stage.result(job)
    stage.same("activities in work at once, at most", 3, stage.tap.account.peak)
    times = sorted(line["time"] for line in stage.ledger("capacity"))
    stage.same("effects", 12, len(times), "activities")
    closest = min(later - earlier for earlier, later in zip(times, times[3:], strict=False))
    stage.true(
        closest > 0.3, "a fourth begins once one of three has ended", f"one began {closest:.2f} s after three others"
    )


@case("activities", "fields")
async def acknowledgement(stage: Stage) -> None:
    """An activity that takes longer than the time for its acknowledgement is acknowledged, and stays the worker's."""
    job = await stage.job("hold", {"seconds": ACK_SECONDS + 1.0})
    grant = await stage.given(job)
    late = time.monotonic() - grant.given
    stage.true(late < ACK_SECONDS, f"an acknowledgement within {ACK_SECONDS:.0f} s", f"{late:.1f} s")
    stage.same("hold returns", "held", await stage.result(job))
    stage.same("attempts", 1, await stage.attempts(job))


@case("activities", "fields")
async def signs_of_life(stage: Stage) -> None:
    """A worker with nothing to do says something within each heartbeat interval."""
    link = stage.link
    said, last, widest = len(link.requests), time.monotonic(), 0.0
    end = last + 3.5 * HEARTBEAT_SECONDS
    while (now := time.monotonic()) < end:
        if len(link.requests) > said:
            said, last = len(link.requests), now
        widest = max(widest, now - last)
        await asyncio.sleep(0.02)
    expected = f"a message every {HEARTBEAT_SECONDS:.0f} s"
    stage.true(widest < 3 * HEARTBEAT_SECONDS, expected, f"a silence of {widest:.1f} s")


@case("activities", "activities")
async def heartbeats(stage: Stage) -> None:
    """An activity that tells that it lives outlives its heartbeat timeout."""
    job = await stage.job("beat", {"seconds": 3.0, "every": 0.2, "crash": False}, heartbeat_timeout=1.5)
    grant = await stage.given(job)
    value = await stage.result(job)
    stage.same("resumed_from of a first attempt", None, value["resumed_from"])
    stage.same("attempts", 1, await stage.attempts(job))
    told = _beats(stage, grant.task.ref)
    stage.true(len(told) > 1, "several heartbeats", f"{len(told)}")


@case("activities", "activities")
async def heartbeat_details(stage: Stage) -> None:
    """An attempt after a failed one gets the details that that one told last."""
    job = await stage.job("beat", {"seconds": 2.0, "every": 0.1, "crash": True}, retry=SOON)
    grant = await stage.given(job)
    value = await stage.result(job)
    told = _beats(stage, grant.task.ref)
    stage.true(told, "heartbeats before the crash", "none")
    stage.same("the second attempt goes on from the last details", told[-1], value["resumed_from"])
    stage.same("attempts", 2, await stage.attempts(job))


def _beats(stage: Stage, ref: object) -> list[int]:
    sent = [beat for link in stage.tap.links for request in link.requests for beat in request.heartbeats]
    converter = stage.client.converter
    return [
        converter.from_payload(beat.details)["beat"] for beat in sent if beat.ref == ref and beat.HasField("details")
    ]


@case("activities", "activities")
async def failures(stage: Stage) -> None:
    """A failure keeps its message and kind, and whether it may be tried again."""
    final = await stage.job("fail", {"message": "no ü", "kind": "Odd", "non_retryable": True}, retry=SOON)
    twice = await stage.job(
        "fail",
        {"message": "no", "kind": "Even", "non_retryable": False},
        retry=RetryPolicy(initial_interval=0.05, maximum_attempts=2),
    )
    failure = await stage.failure(final, "FAILED")
    stage.same("message and kind", ("no ü", "Odd"), (failure.message, failure.type))
    stage.same("attempts of a final failure", 1, await stage.attempts(final))
    failure = await stage.failure(twice, "FAILED")
    stage.same("kind", "Even", failure.type)
    stage.same("attempts of one that may be tried twice", 2, await stage.attempts(twice))


@case("activities", "activities")
async def retries(stage: Stage) -> None:
    """An activity that fails twice is performed a third time, and knows its attempt."""
    job = await stage.job("flaky", {"failures": 2}, retry=SOON)
    stage.same("flaky returns its attempt", 3, await stage.result(job))


@case("activities", "fields")
async def cancellation_of_an_activity(stage: Stage) -> None:
    """An activity in work stops when a CancelTask comes, and is reported as cancelled."""
    job = await stage.job("hold", LONG)
    grant = await stage.given(job)
    await job.cancel("enough")
    await stage.failure(job, "CANCELLED")
    stage.same("its report", "cancelled", stage.reports(grant.task.ref)[-1].WhichOneof("outcome"))


@case("activities", "fields")
async def cancellation_by_heartbeat(stage: Stage) -> None:
    """An activity in work stops when the answer to a heartbeat says so, though no CancelTask came."""

    def withhold(_: Link, message: ConnectResponse) -> None:
        del message.cancels[:]

    stage.tap.on_response.append(withhold)
    job = await stage.job("beat", {"seconds": 60.0, "every": 0.2, "crash": False})
    await stage.given(job)
    await job.cancel("enough")
    await stage.failure(job, "CANCELLED")


@case("activities", "cancellation")
async def cancellation_of_a_run_s_activity(stage: Stage) -> None:
    """An activity of a run that is asked to cancel stops, and the run hears of it."""
    async with stage.code(_performs):
        run = await stage.run("kit.performs", {"type": "hold", "input": LONG})

        def performed() -> object:
            return next(
                (each for each in stage.tap.account.activities() if each.is_known and each.task.type == "hold"), None
            )

        await stage.until(performed, "the worker takes the activity")
        await run.cancel("enough")
        await stage.failure(run, "CANCELLED")


@case("activities", "stream")
async def cancellation_beside_its_assign(stage: Stage) -> None:
    """An assign and its cancellation in one message: the assign is taken in first, and then cancelled."""

    def cancel(_: Link, message: ConnectResponse) -> None:
        for task in message.assigns:
            message.cancels.add(ref=task.ref, reason="enough")

    stage.tap.on_response.append(cancel)
    job = await stage.job("hold", LONG)
    await stage.failure(job, "CANCELLED")


@case("activities", "fields")
async def lost_by_heartbeat(stage: Stage) -> None:
    """An activity that is told to be lost in the answer to a heartbeat stops, and is reported all the same."""

    def lose(_: Link, message: ConnectResponse) -> None:
        for beat in message.heartbeats:
            beat.lost = True

    stage.tap.on_response.append(lose)
    job = await stage.job("beat", {"seconds": 60.0, "every": 0.2, "crash": False})
    grant = await stage.given(job)
    await stage.until(lambda: stage.reports(grant.task.ref), "a report, so that its place is given back", seconds=10)


@case("activities", "activities")
async def unknown_type(stage: Stage) -> None:
    """A task of a type that the worker does not have is given back or fails, and the worker goes on."""
    tampered: list[object] = []

    def tamper(_: Link, message: ConnectResponse) -> None:
        for task in message.assigns:
            if not tampered:
                tampered.append(task.ref)
                task.type = "no-such-type"

    stage.tap.on_response.append(tamper)
    job = await stage.job("echo", "again", retry=SOON)
    stage.same("echo returns its input, once its type is known", "again", await stage.result(job))
