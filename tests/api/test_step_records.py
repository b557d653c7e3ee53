"""StepStore: claims, attempts, skips and retries as an outside engine asks for them, and what makes them safe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import COMPLETED, FAILED, RUNNING, SUSPENDED, Store, at, create, json, read, span
from tests.service import Service, refusal, serving

from stepwell.v1 import runs_pb2, types_pb2

PENDING, STARTED, WAITING, DONE, BROKEN, SKIPPED, CANCELLED = (
    types_pb2.STEP_STATE_PENDING,
    types_pb2.STEP_STATE_RUNNING,
    types_pb2.STEP_STATE_WAITING,
    types_pb2.STEP_STATE_COMPLETED,
    types_pb2.STEP_STATE_FAILED,
    types_pb2.STEP_STATE_SKIPPED,
    types_pb2.STEP_STATE_CANCELLED,
)
PREREQUISITES = runs_pb2.Step.Skip.CAUSE_PREREQUISITES
CONFLICT, LOST = ("FAILED_PRECONDITION", "STEP_STATE_CONFLICT"), ("FAILED_PRECONDITION", "LEASE_LOST")


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def other(service: Service, database_url: str) -> AsyncIterator[Service]:
    """A second replica."""
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def run_id(service: Service) -> str:
    return await create(service)


class Steps:
    """The steps of one run."""

    def __init__(self, service: Service, run_id: str) -> None:
        self.store, self.runs, self.run_id = Store(service, "step"), Store(service, "run"), run_id

    async def do(self, method: str, step_name: str = "s", **fields: Any) -> Any:
        return await self.store.call(method, run_id=self.run_id, step_name=step_name, **fields)

    async def claim(self, step_name: str = "s", owner_id: str = "a", **fields: Any) -> Any:
        return await self.do("ClaimStep", step_name, owner_id=owner_id, **fields)

    async def start(self, step_name: str = "s", **fields: Any) -> Any:
        return (await self.do("RecordStepStart", step_name, **fields)).step

    async def end(self, step_name: str = "s", state: Any = DONE, **fields: Any) -> Any:
        return (await self.do("RecordStepComplete", step_name, state=state, **fields)).step

    async def skip(self, step_name: str = "s", **fields: Any) -> Any:
        return (await self.do("RecordSkippedStep", step_name, **fields)).step

    async def states(self) -> dict[str, Any]:
        listed = await self.store.pages("ListStepStates", "entries", run_id=self.run_id)
        return {entry.step_name: entry.state for entry in listed}

    async def claims(self) -> list[str]:
        listed = await self.store.pages("ListClaimedSteps", "claims", run_id=self.run_id, page_size=1)
        return [f"{claim.step_name} {claim.owner_id}" for claim in listed]

    async def attempts(self, step_name: str = "s") -> list[tuple[int, Any]]:
        details = await self.runs.pages("GetRunDetail", "steps", run_id=self.run_id, page_size=1)
        (found,) = (each for each in details if (each.step.key or each.step.name) == step_name)
        return [(attempt.attempt, attempt.state) for attempt in found.attempts]


@pytest.fixture
def steps(service: Service, run_id: str) -> Steps:
    return Steps(service, run_id)


# --- claims -----------------------------------------------------------------------------------------------------------


async def test_a_claim_is_one_s_until_it_is_released(steps: Steps) -> None:
    """Also for who has it; the step is not begun by it."""
    assert [(await steps.claim(owner_id=owner)).claimed for owner in ("a", "a", "b")] == [True, False, False]
    assert (await steps.states(), await steps.claims()) == ({"s": PENDING}, ["s a"])
    assert not (await steps.do("ReleaseStepClaim", owner_id="b")).released
    assert (await steps.do("ReleaseStepClaim")).released
    assert not (await steps.do("ReleaseStepClaim")).released
    assert await steps.claims() == []
    assert (await steps.claim(owner_id="b")).claimed


@pytest.mark.parametrize("step_name", ["s", "loop.3.child", "poll#2"])
async def test_of_64_claims_at_once_one_wins(service: Service, other: Service, run_id: str, step_name: str) -> None:
    both = (Steps(service, run_id), Steps(other, run_id))
    claims = [both[place % 2].claim(step_name, owner_id=str(place)) for place in range(64)]
    assert sum(claim.claimed for claim in await asyncio.gather(*claims)) == 1


async def test_what_has_ended_is_not_claimed_and_not_listed(steps: Steps) -> None:
    for state in (DONE, BROKEN, SKIPPED):
        name = str(state)
        assert (await steps.claim(name)).claimed
        await steps.start(name)
        assert await steps.claims() == [f"{name} a"]
        await steps.end(name, state)
        assert await steps.claims() == []
        assert not (await steps.claim(name)).claimed
    await steps.runs.call("MarkRunCompleted", run_id=steps.run_id)
    assert not (await steps.claim("another")).claimed


async def test_an_expired_claim_is_another_s_and_its_holder_is_refused(steps: Steps) -> None:
    first = await steps.claim(lease_duration=span(5), now=at(0))
    assert (first.claimed, first.claim_token, first.lease_expire_time) == (True, 1, at(5))
    await steps.start(claim_token=1)
    assert not (await steps.claim(owner_id="b", now=at(4))).claimed
    second = await steps.claim(owner_id="b", lease_duration=span(5), now=at(5))
    assert (second.claimed, second.claim_token) == (True, 2)
    for late in (
        steps.end(claim_token=1),
        steps.end(),
        steps.start(claim_token=1),
        steps.skip(claim_token=1),
        steps.do("SaveStep", value=json("1")),
    ):
        assert await refusal(late) == LOST
    assert not (await steps.do("ReleaseStepClaim", owner_id="a", claim_token=1)).released
    assert not (await steps.do("ReleaseStepClaim")).released
    assert (await steps.end(claim_token=2)).state == DONE


async def test_a_lease_is_renewed_by_its_holder_alone(steps: Steps) -> None:
    renew: dict[str, Any] = {"lease_duration": span(5), "now": at(6)}
    assert not (await steps.do("RenewStepClaim", owner_id="a", claim_token=1, **renew)).renewed
    await steps.claim(lease_duration=span(5), now=at(0))
    assert not (await steps.do("RenewStepClaim", owner_id="b", claim_token=1, **renew)).renewed
    assert not (await steps.do("RenewStepClaim", owner_id="a", claim_token=2, **renew)).renewed
    renewed = await steps.do("RenewStepClaim", owner_id="a", claim_token=1, **renew)
    assert (renewed.renewed, renewed.lease_expire_time) == (True, at(11))
    assert not (await steps.claim(owner_id="b", now=at(10))).claimed
    assert (await steps.claim(owner_id="b", now=at(11))).claimed
    assert not (await steps.do("RenewStepClaim", owner_id="a", claim_token=1, **renew)).renewed


async def test_begin_step_leaves_what_another_has_claimed(steps: Steps) -> None:
    """Released, it begins with the input that is given."""
    await steps.claim()
    assert (await steps.do("BeginStep", input=json("1"))).outcome == 2
    await steps.do("ReleaseStepClaim")
    begun = await steps.do("BeginStep", input=json("1"))
    assert (begun.outcome, begun.step.input.json, begun.step.state) == (1, "1", STARTED)


async def test_a_claim_marks_the_dispatch(service: Service, steps: Steps) -> None:
    """In the transaction of the claim, or of what else shows that the step has arrived."""
    dispatches = Store(service, "dispatch")
    for name in ("a", "b", "c", "d"):
        await dispatches.call("RecordDispatch", run_id=steps.run_id, step_name=name)
    await steps.claim("a")
    await steps.start("b")
    await steps.skip("c")
    listed = await dispatches.pages("ListDispatchedSteps", "dispatches", run_id=steps.run_id)
    assert {each.step_name for each in listed if each.HasField("claim_time")} == {"a", "b", "c"}
    late = await dispatches.call("TakeUnclaimedDispatches", timeout=span(1), now=at(2**30))
    assert [each.step_name for each in late.dispatches] == ["d"]


# --- attempts ---------------------------------------------------------------------------------------------------------


async def test_attempts_count_and_stay(steps: Steps) -> None:
    first = await steps.start(type="call", input=json("1"), job_id="j1")
    assert (first.state, first.attempt, first.type, first.input.json, first.job_id) == (STARTED, 1, "call", "1", "j1")
    failed = await steps.end(state=BROKEN, failure={"message": "boom"}, result=json("0"))
    assert (failed.state, failed.failure.message) == (BROKEN, "boom")
    second = await steps.start(type="call", input=json("2"), job_id="j2")
    assert (second.number, second.attempt, second.input.json) == (first.number, 2, "2")
    assert not second.HasField("failure")
    await steps.end(result=json("3"))
    (detail,) = await steps.runs.pages("GetRunDetail", "steps", run_id=steps.run_id)
    told = [(each.attempt, each.state, each.input.json, each.output.json, each.job_id) for each in detail.attempts]
    assert told == [(1, BROKEN, "1", "0", "j1"), (2, DONE, "2", "3", "j2")]
    assert (detail.attempts[0].failure.message, detail.step.result.json) == ("boom", "3")
    assert all(each.HasField("end_time") and each.type == "call" for each in detail.attempts)


async def test_attempts_begun_at_once_have_numbers_of_their_own(service: Service, other: Service, run_id: str) -> None:
    """Over two replicas, again and again: each finds the one before it."""
    both = (Steps(service, run_id), Steps(other, run_id))
    for first in range(1, 241, 12):
        begun = await asyncio.gather(*(both[place % 2].start() for place in range(12)))
        assert sorted(step.attempt for step in begun) == list(range(first, first + 12))


async def test_a_step_that_waits_is_begun_again(steps: Steps) -> None:
    await steps.start()
    assert (await steps.end(state=WAITING)).state == WAITING
    assert await steps.states() == {"s": WAITING}
    assert await refusal(steps.end()) == CONFLICT
    assert (await steps.start()).attempt == 2
    await steps.end()
    assert await steps.attempts() == [(1, WAITING), (2, DONE)]


async def test_an_attempt_that_was_overtaken_is_over(steps: Steps) -> None:
    """Starts at once get attempts of their own."""
    begun = await asyncio.gather(*(steps.start() for _ in range(5)))
    assert sorted(step.attempt for step in begun) == [1, 2, 3, 4, 5]
    assert await steps.attempts() == [*((number, CANCELLED) for number in range(1, 5)), (5, STARTED)]


async def test_what_has_ended_is_not_written_over(steps: Steps) -> None:
    """Neither the step's end, nor that of its run."""
    for name, state in (("a", DONE), ("b", SKIPPED)):
        await steps.start(name)
        await steps.end(name, state)
        for late in (steps.end(name, BROKEN), steps.start(name), steps.skip(name)):
            assert await refusal(late) == CONFLICT
    assert (await refusal(steps.end("none")))[1] == "STEP_NOT_FOUND"
    await steps.start("c")
    await steps.runs.call("MarkRunCompleted", run_id=steps.run_id)
    for late in (steps.end("c"), steps.start("d"), steps.skip("d")):
        assert (await refusal(late))[1] == "RUN_TERMINAL"
    assert (await steps.states())["c"] == CANCELLED


async def test_a_skip_keeps_its_reason_and_its_trace(steps: Steps) -> None:
    skipped = await steps.skip(type="call", reason="why", cause=PREREQUISITES, evaluation_trace=json("[1]"))
    assert (skipped.state, skipped.attempt, skipped.skip.reason, skipped.type) == (SKIPPED, 1, "why", "call")
    (detail,) = await steps.runs.pages("GetRunDetail", "steps", run_id=steps.run_id)
    assert (detail.step.skip.cause, detail.step.skip.evaluation_trace.json) == (PREREQUISITES, "[1]")
    assert not detail.step.HasField("result")
    (attempt,) = detail.attempts
    assert (attempt.attempt, attempt.state, attempt.skip) == (1, SKIPPED, detail.step.skip)


@pytest.mark.parametrize(
    ("state", "fields", "field"),
    [(STARTED, {}, "state"), (0, {}, "state"), (DONE, {"failure": {"message": "no"}}, "failure")],
)
async def test_a_wrong_outcome_names_its_field(steps: Steps, state: Any, fields: Any, field: str) -> None:
    await steps.start()
    assert (await refusal(steps.end(state=state, **fields)))[0] == "INVALID_ARGUMENT"


async def test_run_detail_pages_and_finds_nothing(service: Service, steps: Steps) -> None:
    for name in "abc":
        await steps.start(name)
    details = await steps.runs.pages("GetRunDetail", "steps", run_id=steps.run_id, page_size=2)
    assert [each.step.name for each in details] == ["a", "b", "c"]
    found = await steps.runs.call("GetRunDetail", run_id=steps.run_id)
    assert (found.found, found.run.phase) == (True, RUNNING)
    assert not (await steps.runs.call("GetRunDetail", workflow_id="none")).found


# --- retries ----------------------------------------------------------------------------------------------------------


async def failed_chain(steps: Steps) -> None:
    """A → b → c → d, where b failed, c was skipped for it, and d for c; e was skipped for a reason of its own."""
    await steps.start("a")
    await steps.end("a")
    await steps.start("b")
    await steps.end("b", BROKEN, failure={"message": "boom"})
    await steps.skip("c", reason="r", cause=PREREQUISITES, blocked_by=["b"])
    await steps.skip("d", reason="r", cause=PREREQUISITES, blocked_by=["c"])
    await steps.skip("e", reason="when", cause=runs_pb2.Step.Skip.CAUSE_CONDITION, blocked_by=["b"])
    await steps.runs.call("MarkRunFailed", run_id=steps.run_id, terminal=True, failure={"message": "boom"})


async def test_a_retry_opens_the_run_and_what_was_skipped(service: Service, steps: Steps) -> None:
    await failed_chain(steps)
    dispatches = Store(service, "dispatch")
    for name in ("a", "b", "c"):
        await dispatches.call("RecordDispatch", run_id=steps.run_id, step_name=name)
    retried = await steps.do("RetryStep", "b", follow_blocked=True)
    assert (retried.step.state, retried.step.attempt, retried.phase) == (STARTED, 1, RUNNING)
    assert list(retried.reset_steps) == ["c", "d"]
    assert await steps.states() == {"a": DONE, "b": STARTED, "c": PENDING, "d": PENDING, "e": SKIPPED}
    left = await dispatches.pages("ListDispatchedSteps", "dispatches", run_id=steps.run_id)
    assert [each.step_name for each in left] == ["a"]
    assert (await steps.claim("b")).claimed
    assert (await steps.start("b")).attempt == 2
    for name in "cd":
        assert (await steps.start(name)).attempt == 2
    assert await steps.attempts("c") == [(1, SKIPPED), (2, STARTED)]
    events = [each.type for each in await Store(service, "event").pages("ReadEvents", "events", run_id=steps.run_id)]
    assert events.count("RunRetried") == events.count("StepRetried") == 1
    assert events.count("StepReset") == 2


async def test_a_retry_of_named_dependents(steps: Steps) -> None:
    """Skipped for another reason they stay; what is not named stays."""
    await failed_chain(steps)
    retried = await steps.do("RetryStep", "b", dependents=["c", "e", "a", "unknown"])
    assert list(retried.reset_steps) == ["c"]
    assert (await steps.states())["d"] == SKIPPED


async def test_a_retry_takes_the_step_from_who_has_it(steps: Steps) -> None:
    claim = await steps.claim(lease_duration=span(60))
    await steps.start(claim_token=claim.claim_token)
    await steps.do("RetryStep")
    assert await refusal(steps.end(claim_token=claim.claim_token)) == LOST
    assert await steps.claims() == []
    assert (await steps.claim(owner_id="b")).claimed


async def test_what_is_done_or_not_begun_is_not_retried(steps: Steps) -> None:
    await steps.start("a")
    await steps.end("a")
    await steps.skip("b")
    await steps.claim("c")
    for name in "abc":
        assert await refusal(steps.do("RetryStep", name)) == CONFLICT
    assert (await refusal(steps.do("RetryStep", "d")))[1] == "STEP_NOT_FOUND"
    await steps.runs.call("MarkRunCompleted", run_id=steps.run_id)
    assert await refusal(steps.do("RetryStep", "a")) == CONFLICT
    assert (await read_phase(steps)) == COMPLETED


async def read_phase(steps: Steps) -> Any:
    return (await steps.runs.call("ReadRun", run_id=steps.run_id)).run.phase


async def test_a_retried_run_is_not_asked_to_stop_any_more(service: Service, steps: Steps) -> None:
    controls = Store(service, "run_control")
    await steps.start()
    await steps.end(state=BROKEN)
    await controls.call("ConfigureRun", run_id=steps.run_id, deadline=at(2**29))
    await controls.call("MarkRunTimedOut", run_id=steps.run_id)
    await steps.runs.call("SetRunPhase", run_id=steps.run_id, phase=types_pb2.RUN_PHASE_TIMED_OUT)
    await steps.do("RetryStep")
    shown = (await controls.call("GetRunControl", run_id=steps.run_id)).control
    assert (shown.HasField("cancel_request"), shown.HasField("timed_out_time")) == (False, False)


async def test_of_retries_at_once_each_finds_what_is_there(service: Service, other: Service, steps: Steps) -> None:
    """The run is opened once, whoever was first."""
    await failed_chain(steps)
    both = (steps, Steps(other, steps.run_id))
    await asyncio.gather(*(both[place % 2].do("RetryStep", "b") for place in range(8)))
    events = [each.type for each in await Store(service, "event").pages("ReadEvents", "events", run_id=steps.run_id)]
    assert (events.count("RunRetried"), events.count("StepRetried")) == (1, 8)


async def test_a_retried_run_knows_its_callers_numbers(service: Service, steps: Steps) -> None:
    """An event that is sent again after the run has gone on is still the same event."""
    events = Store(service, "event")
    await steps.start()
    await steps.end(state=BROKEN)
    note = {"run_id": steps.run_id, "type": "note", "caller_seq": 7}
    await events.call("AppendEvent", **note)
    await steps.runs.call("SetRunPhase", run_id=steps.run_id, phase=FAILED)
    await steps.do("RetryStep")
    assert await refusal(events.call("AppendEvent", **note)) == ("ALREADY_EXISTS", "EVENT_SEQ_EXISTS")
    await events.call("AppendEvent", **{**note, "caller_seq": 8})


async def test_a_suspended_run_goes_on(service: Service, steps: Steps) -> None:
    await steps.start()
    await steps.end(state=BROKEN)
    await steps.runs.call("SetRunPhase", run_id=steps.run_id, phase=SUSPENDED)
    assert (await steps.do("RetryStep")).phase == RUNNING
    assert (await read(service, steps.run_id)).phase == RUNNING
    await steps.runs.call("SetRunPhase", run_id=steps.run_id, phase=FAILED)
    assert await read_phase(steps) == FAILED
