"""Runs with a retry policy: one whose code failed begins anew, as itself, with an empty record and all its signals."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.engine.code import Code, activity, complete, json, local
from tests.engine.mended import names_of, retry, steps_of
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.reported import End, NewChild, NewTimer, NewWait, Successor
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun, TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.mail import Subject, unpack_letter
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import Phase, RunDetails, unpack_details
from stepwell_server.model.steps import RetryPolicy
from stepwell_server.model.tasks import TaskKind

POLICY = RetryPolicy(initial_seconds=10, coefficient=2, maximum_seconds=15, maximum_attempts=4)
BROKEN = Failure("no", "Broken")
FAILED = End(Phase.FAILED, failure=BROKEN)


def started(world: World, policy: RetryPolicy | None = POLICY, **fields: object) -> int:
    details = RunDetails(retry=policy, maximum_run_seconds=fields.pop("maximum", None))  # type: ignore[arg-type]
    return world.start(details=details, **fields)


def attempt_of(world: World, key: int) -> int:
    run = world.store.runs.get(key) or world.store.closed_runs[key]
    return unpack_details(run.details).attempt


def look(world: World, key: int) -> bool:
    answer: bool = world.do(LookAtRun(world.ref(key)))
    return answer


def waits(world: World, key: int) -> float:
    """How long the run waits until it begins anew."""
    run = world.run(key)
    assert (run.phase, run.queued, run.session_id, run.owner_id) == (Phase.PENDING, False, None, "")
    assert run.wake_time is not None
    return (run.wake_time - world.now).total_seconds()


def failed(world: World, key: int, end: End = FAILED) -> Code:
    code = Code(world, key)
    code.run("a", local())
    code.end(end)
    return code


def test_a_run_that_fails_begins_anew_as_itself() -> None:
    """Nothing of its record is left; the next attempt does the same steps under new ordinals, and completes."""
    world = World()
    key = started(world, workflow_id="w")
    failed(world, key)
    assert steps_of(world, key) == []
    assert waits(world, key) == 10
    assert not look(world, key)
    world.advance(10)
    assert look(world, key)
    assert (world.is_queued(key), world.run(key).phase) == (True, Phase.PENDING)
    world.check()
    code = Code(world, key)
    assert world.run(key).phase == Phase.RUNNING
    assert code.run("a", local()) == 2
    code.end()
    assert (world.closed(key).phase, attempt_of(world, key)) == (Phase.COMPLETED, 2)
    assert len(world.store.closed_runs) == 1
    world.check()


def test_history_tells_of_each_attempt() -> None:
    """Which it was, why it failed, and when the next begins."""
    world = World()
    key = started(world)
    failed(world, key)
    (event,) = [event for event in world.events(key) if event.type == EventType.RUN_ATTEMPT_FAILED]
    told = unpack_attributes(event.attributes)
    assert told.failure == BROKEN
    assert told.facts == {"attempt": "1", "next_attempt_time": "2030-01-01T00:00:10+00:00", "removed": "1"}
    assert unpack_details(world.run(key).details).failure_event == event.number


def test_the_delay_grows_up_to_its_maximum_and_the_last_attempt_is_the_end() -> None:
    """As the policy says; the failure of the last attempt is the run's."""
    world = World()
    key = started(world)
    for delay in (10, 15, 15):
        failed(world, key)
        assert waits(world, key) == delay
        world.advance(delay)
        look(world, key)
    failed(world, key)
    assert (world.closed(key).phase, attempt_of(world, key)) == (Phase.FAILED, 4)
    assert world.happened(key).count(EventType.RUN_ATTEMPT_FAILED) == 3
    assert world.happened(key)[-1] == EventType.RUN_FAILED
    world.check()


def test_without_a_delay_it_is_queued_at_once() -> None:
    """Nobody has to look at it."""
    world = World()
    key = started(world, RetryPolicy(initial_seconds=0))
    failed(world, key)
    assert (world.is_queued(key), world.run(key).wake_time) == (True, None)
    world.check()


def test_the_failing_worker_chooses_the_delay() -> None:
    """Once, in place of the policy's."""
    world = World()
    key = started(world)
    failed(world, key, End(Phase.FAILED, failure=Failure("no", next_retry_seconds=77.0)))
    assert waits(world, key) == 77


@dataclass(frozen=True)
class Final:
    """Why a failure is the end."""

    policy: RetryPolicy | None = POLICY
    failure: Failure = BROKEN
    timeout: float | None = None
    maximum: float | None = None
    limits: Limits | None = None


FINAL = {
    "no policy": Final(policy=None),
    "one attempt": Final(policy=RetryPolicy(maximum_attempts=1)),
    "non-retryable type": Final(policy=RetryPolicy(non_retryable_types=("Other", "Broken"))),
    "non-retryable failure": Final(failure=Failure("no", non_retryable=True)),
    "deadline before the next": Final(timeout=10),
    "longest run before the next": Final(maximum=10),
    "deadline before the worker's choice": Final(failure=Failure("no", next_retry_seconds=100.0), timeout=100),
    "history is full": Final(limits=Limits(events=2)),
}


@pytest.mark.parametrize("case", FINAL)
def test_a_final_failure_is_the_end(case: str) -> None:
    """The run has FAILED, with what its code said."""
    final = FINAL[case]
    world = World(final.limits)
    key = started(world, final.policy, timeout_seconds=final.timeout, maximum=final.maximum)
    failed(world, key, End(Phase.FAILED, failure=final.failure))
    assert world.closed(key).phase == Phase.FAILED
    assert unpack_attributes(world.events(key)[-1].attributes).failure == final.failure
    world.check()


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.CANCELLED])
def test_other_ends_are_ends(phase: Phase) -> None:
    """Only a failure is tried again."""
    world = World()
    key = started(world)
    failed(world, key, End(phase))
    assert world.closed(key).phase == phase


def test_who_was_asked_to_cancel_does_not_begin_anew() -> None:
    """Code that fails over its cancellation has had its last attempt."""
    world = World()
    key = started(world)
    code = Code(world, key)
    world.do(CancelRun(world.ref(key), "enough"))
    code.end(FAILED)
    assert world.closed(key).phase == Phase.FAILED


def test_the_deadline_is_that_of_all_attempts() -> None:
    """It does not move, and a later attempt times out by it."""
    world = World()
    key = started(world, timeout_seconds=30)
    deadline = world.run(key).deadline
    failed(world, key)
    assert world.run(key).deadline == deadline
    world.advance(10)
    look(world, key)
    code = Code(world, key)
    code.run("t", NewTimer(60), waiting=True)
    world.advance(20)
    assert look(world, key)
    assert (world.closed(key).phase, attempt_of(world, key)) == (Phase.TIMED_OUT, 2)


def test_what_was_open_is_cancelled() -> None:
    """Activities are told and their late reports refused; timers, waits and children go; nobody hears of old ends."""
    world = World()
    key = started(world)
    code = Code(world, key)
    code.send(
        code.call("act", activity(), "1"),
        code.call("timer", NewTimer(5), "2"),
        code.call("wait", NewWait("s"), "2/1"),
        code.call("child", NewChild("flow"), "3"),
    )
    (granted,) = world.claim(TaskKind.ACTIVITY, ("act",))
    code.end(FAILED)
    assert world.last is not None
    news = world.last.subjects.runs[key].news
    assert [(session, ordinal) for session, ordinal, *_ in news.cancels] == [(world.session, 1)]
    assert not news.ended
    assert not news.revokes
    assert steps_of(world, key) == []
    assert {scope.order_count for scope in world.store.scopes.values()} == {0}
    with pytest.raises(errors.LeaseLost):
        world.do(complete(world, granted))
    assert [unpack_letter(mail.body).subject for mail in world.store.mail.values()] == [Subject.TERMINATE]
    world.deliver()
    assert world.closed(key + 1).phase == Phase.TERMINATED
    world.check()


def test_signals_are_kept_again() -> None:
    """Those that the attempt took, and those that it did not, in the order of their coming."""
    world = World()
    key = started(world, workflow_id="w")
    for text in ("1", "2", "3"):
        world.do(SignalRun(world.ref(key), "s", json(text), f"id {text}"))
    code = Code(world, key)
    code.send(code.call("w", NewWait("s")), code.call("w", NewWait("s")))
    code.end(FAILED)
    world.do(SignalRun(world.ref(key), "s", json("4")))
    assert world.do(SignalRun(world.ref(key), "s", json("1"), "id 1")).recorded is False
    world.advance(10)
    look(world, key)
    code = Code(world, key)
    answer = code.send(*(code.call("w", NewWait("s")) for _ in range(4)))
    taken = [world.events(key)[each.step.input_event - 1].payload for each in answer.ended]
    assert taken == [b"1", b"2", b"3", b"4"]
    world.check()


def test_a_signal_of_the_delay_is_kept() -> None:
    """It does not wake the run before its time."""
    world = World()
    key = started(world)
    failed(world, key)
    world.do(SignalRun(world.ref(key), "s", json("1")))
    assert waits(world, key) == 10


def test_the_report_of_a_failure_is_known_again() -> None:
    """Its repeat changes nothing, whatever has become of the run; another of the same token is refused."""
    world = World()
    key = started(world)
    code = Code(world, key)
    message = code.message(end=FAILED)
    world.do(message)
    before = len(world.events(key))
    assert world.do(message).duplicate
    with pytest.raises(errors.LeaseLost):
        world.do(code.message(end=End(Phase.COMPLETED)))
    world.advance(10)
    look(world, key)
    Code(world, key)
    assert world.do(message).duplicate
    assert len(world.events(key)) == before
    assert world.run(key).session_id == world.session


def test_a_run_that_waits_for_its_next_attempt_is_cancelled_at_once() -> None:
    """Nobody's code is there to clean up, also in a chain of runs; a retry has it go on, with attempts from 1."""
    world = World()
    first = started(world, workflow_id="w")
    Code(world, first).end(End(Phase.COMPLETED, successor=Successor(NULL)))
    key = first + 1
    assert unpack_details(world.run(key).details).retry == POLICY
    failed(world, key)
    assert world.do(CancelRun(world.ref(key), "enough")).phase == Phase.CANCELLED
    assert world.closed(key).phase == Phase.CANCELLED
    world.check()
    world.do(retry(world, key))
    assert (world.is_queued(key), attempt_of(world, key)) == (True, 1)
    assert not unpack_details(world.run(key).details).failure_event
    failed(world, key)
    assert waits(world, key) == 10


def test_a_second_attempt_at_work_cleans_up_like_a_first() -> None:
    """Its code hears of the request."""
    world = World()
    key = started(world, RetryPolicy(initial_seconds=0))
    failed(world, key)
    Code(world, key)
    assert world.do(CancelRun(world.ref(key), "enough")).phase == Phase.RUNNING
    assert world.run(key).cancel_time is not None


def test_it_is_terminated_while_it_waits() -> None:
    """And has ended."""
    world = World()
    key = started(world)
    failed(world, key)
    world.do(TerminateRun(world.ref(key), "enough"))
    assert world.closed(key).phase == Phase.TERMINATED
    world.check()


def test_a_pause_holds_the_next_attempt_back() -> None:
    """Until it is resumed; one resumed before its time waits on."""
    world = World()
    key = started(world)
    failed(world, key)
    world.do(PauseRun(world.ref(key), "look"))
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert waits(world, key) == 10
    world.do(PauseRun(world.ref(key), "look"))
    world.advance(10)
    look(world, key)
    assert not world.is_queued(key)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.is_queued(key)
    world.check()


def test_the_parent_hears_of_the_last_attempt_only() -> None:
    """A child with a policy of its own is one child to its parent, whose step ends with it."""
    world = World()
    parent = world.start()
    code = Code(world, parent)
    code.run("c", NewChild("flow", retry=RetryPolicy(initial_seconds=0, maximum_attempts=2)), waiting=True)
    child = parent + 1
    failed(world, child)
    assert not world.store.mail
    failed(world, child)
    world.deliver()
    assert world.ended(parent, 1).state == 5
    world.check()


def test_a_parents_end_reaches_a_child_that_waits_for_its_next_attempt() -> None:
    """It is terminated as any."""
    world = World()
    parent = world.start()
    code = Code(world, parent)
    code.run("c", NewChild("flow", retry=POLICY))
    failed(world, parent + 1)
    code.end()
    world.deliver()
    assert world.closed(parent + 1).phase == Phase.TERMINATED


def test_the_next_attempt_is_of_any_build() -> None:
    """What failed may be mended, and that is another build."""
    world = World()
    key = started(world, RetryPolicy(initial_seconds=0))
    code = Code(world, key)
    code.build_id = "1"
    code.run("a", local())
    assert world.run(key).build_id == "1"
    code.end(FAILED)
    assert world.run(key).build_id == ""
    assert world.grant(key, builds=("2",)) is not None


def test_what_the_failing_progress_records_goes_too() -> None:
    """Steps and failure in one message."""
    world = World()
    key = started(world)
    code = Code(world, key)
    code.send(code.call("a", local()), code.call("b", activity()), end=FAILED)
    assert names_of(world, key) == []
    assert waits(world, key) == 10
    world.check()
