"""Jobs: a life from start to end, timeouts, cancellation and retry, names, and jobs among runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from tests.engine.test_job_states import (
    CAME,
    CANCELLED,
    COMMANDS,
    COMPLETED,
    ENDED_FAILED,
    FAILED,
    GIVEN,
    ONCE,
    PENDING,
    RUNNING,
    completed,
    failed,
    held,
    state_of,
)
from tests.engine.world import MAIN, World, new_job

from stepwell_server import errors
from stepwell_server.engine.activities import CompleteActivity, FailActivity, Outcome
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.jobs import CancelJob, RetryJob, StartedJob, StartJob, SteeredJob
from stepwell_server.engine.starts import Conflict, Reuse
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.jobs import JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import NULL, unpack_failure
from stepwell_server.model.steps import RetryPolicy, StepDetails, Timeouts, unpack_step_details
from stepwell_server.model.tasks import JobGrant, TaskKind

# --- a life -----------------------------------------------------------------------------------------------------------


def test_a_job_leaves_no_history_and_one_row() -> None:
    """It is written as it starts, and once more as it ends, with what it came to; nothing else is kept of it."""
    world = World()
    key = completed(world)
    assert world.store.jobs.inputs[key] == GIVEN
    assert world.store.jobs.results[key] == CAME
    assert world.closed_job(key).attempt == 1
    assert not world.store.events
    assert not world.store.tasks
    world.check()


def test_a_job_goes_straight_to_a_worker_with_a_place() -> None:
    """It is inserted as held, with its input at hand, and never waits."""

    class Places:
        def reserve(self, task: Any) -> Any:
            return (world.session, "worker", ())

        def release(self, task: Any, reservation: Any) -> None:
            raise AssertionError("it was granted")

        def is_here(self, session_id: Any) -> bool:
            return False

    world = World()
    world.capacity = Places()
    key = world.start_job(input=GIVEN)
    assert (world.job(key).state, world.job(key).grants) == (RUNNING, 1)
    assert world.write is not None
    assert not world.write.jobs.changed
    assert not world.write.tasks
    assert world.last is not None
    (grant,) = world.last.subjects.jobs.changes[key].news.grants
    assert isinstance(grant, JobGrant)
    assert grant.payload == GIVEN
    world.check()


def test_a_failed_attempt_backs_off_and_is_tried_again() -> None:
    world = World()
    key = world.start_job(details=StepDetails(retry=RetryPolicy(initial_seconds=4.0, maximum_attempts=3)))
    for attempt, delay in ((1, 4.0), (2, 8.0)):
        grant = world.grant_job(key)
        assert grant is not None
        assert (grant.job.attempt, grant.token) == (attempt, attempt)
        world.do(FailActivity(world.job_ref(key), JOB_ORDINAL, world.session, attempt, FAILED))
        assert not world.is_queued(key, JOB_ORDINAL)
        world.advance(delay - 0.001)
        assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is False
        world.advance(0.001)
        assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is True
        assert world.is_queued(key, JOB_ORDINAL)
        assert unpack_step_details(world.job(key).details).last_failure == FAILED
        world.check()
    world.grant_job(key)
    world.do(FailActivity(world.job_ref(key), JOB_ORDINAL, world.session, 3, FAILED))
    assert unpack_failure(world.closed_job(key).failure) == FAILED
    world.check()


def test_a_delayed_job_begins_in_its_time_and_its_timeouts_count_from_there() -> None:
    world = World()
    details = StepDetails(timeouts=Timeouts(schedule_to_start=5.0))
    key = world.start_job(delay_seconds=60.0, details=details)
    assert not world.is_queued(key, JOB_ORDINAL)
    world.advance(59)
    assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is False
    world.advance(1)
    assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is True
    assert world.is_queued(key, JOB_ORDINAL)
    world.advance(5)
    assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is True
    failure = unpack_failure(world.closed_job(key).failure)
    assert failure is not None
    assert failure.timeout_kind == 1
    assert not world.store.tasks
    world.check()


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (Timeouts(schedule_to_close=5.0), 2),
        (Timeouts(start_to_close=5.0), 3),
        (Timeouts(heartbeat=5.0), 4),
    ],
)
def test_a_held_job_times_out_and_is_taken_from_its_worker(limits: Timeouts, kind: int) -> None:
    """The attempt fails and says which timeout it was; only that of the job as a whole allows no other attempt."""
    world = World()
    key = world.start_job(details=StepDetails(timeouts=limits))
    world.grant_job(key)
    world.advance(5)
    assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is True
    assert world.last is not None
    (revoke,) = world.last.subjects.jobs.changes[key].news.revokes
    assert revoke == (world.session, JOB_ORDINAL, 1, "TIMED_OUT")
    if kind == 2:
        failure = unpack_failure(world.closed_job(key).failure)
    else:
        failure = unpack_step_details(world.job(key).details).last_failure
        assert state_of(world, key) == PENDING
    assert failure is not None
    assert failure.timeout_kind == kind
    world.check()


def test_a_heartbeat_puts_its_timeout_off() -> None:
    world = World()
    key = world.start_job(details=StepDetails(timeouts=Timeouts(heartbeat=5.0)))
    world.grant_job(key)
    world.advance(3)
    world.store.heartbeats[key, JOB_ORDINAL] = (world.now, NULL)
    world.advance(2)
    assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is True
    assert state_of(world, key) == RUNNING
    world.advance(3)
    assert world.do(FireStep(world.job_ref(key), JOB_ORDINAL)) is True
    assert state_of(world, key) == PENDING


def test_an_unacknowledged_return_costs_no_attempt_until_the_tenth() -> None:
    world = World()
    key = world.start_job(details=ONCE)
    for returns in range(1, world.limits.returns + 1):
        assert world.grant_job(key) is not None
        order = ReturnTask(world.job_ref(key), JOB_ORDINAL, returns, world.session, counts=False, reason="ack")
        assert world.do(order) is True
        if returns < world.limits.returns:
            assert (world.job(key).attempt, world.job(key).returns) == (0, returns)
    assert state_of(world, key) == ENDED_FAILED
    world.check()


# --- cancellation and retry -------------------------------------------------------------------------------------------


def test_a_held_job_that_should_stop_is_told_so_and_ends_as_its_worker_says() -> None:
    world = World()
    key = held(world)
    assert world.do(CancelJob(world.job_ref(key), "enough")) == SteeredJob(
        accepted=True, job_id=world.job(key).job_id, state=RUNNING
    )
    assert world.last is not None
    (cancel,) = world.last.subjects.jobs.changes[key].news.cancels
    assert cancel == (world.session, JOB_ORDINAL, 1, "enough")
    world.do(CompleteActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, CAME))
    assert state_of(world, key) == COMPLETED
    assert world.closed_job(key).cancel_reason == "enough"


@pytest.mark.parametrize("how", ["fails", "times out", "is lost"])
def test_a_job_that_should_stop_is_not_tried_again(how: str) -> None:
    """Though it may have as many attempts as it likes, the one that fails now is the last."""
    world = World()
    key = world.start_job(details=StepDetails(timeouts=Timeouts(start_to_close=5.0)))
    world.grant_job(key)
    world.do(CancelJob(world.job_ref(key), "enough"))
    if how == "fails":
        world.do(FailActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, FAILED))
    elif how == "times out":
        world.advance(5)
        world.do(FireStep(world.job_ref(key), JOB_ORDINAL))
    else:
        world.do(ReturnTask(world.job_ref(key), JOB_ORDINAL, 1, world.session, counts=True, reason="lost"))
    assert state_of(world, key) == CANCELLED
    assert unpack_failure(world.closed_job(key).failure) is not None
    world.check()


def test_a_retried_job_begins_anew_under_a_token_that_goes_on_rising() -> None:
    """Its attempts count from one, its failure is kept as its last, and reports under its old token are stale."""
    world = World()
    key = failed(world)
    world.advance(100)
    assert world.do(RetryJob(world.job_ref(key))).state == PENDING
    job = world.job(key)
    assert (job.attempt, job.retries, job.schedule_time) == (0, 1, world.now)
    assert unpack_step_details(job.details).last_failure == FAILED
    grant = world.grant_job(key)
    assert grant is not None
    assert (grant.token, grant.job.attempt, grant.payload) == (2, 1, None)
    with pytest.raises(errors.LeaseLost):
        world.do(FailActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, FAILED))
    world.do(CompleteActivity(world.job_ref(key), JOB_ORDINAL, world.session, 2, CAME))
    assert state_of(world, key) == COMPLETED
    world.check()


def test_a_job_retried_and_cancelled_in_one_batch_has_ended() -> None:
    world = World()
    key = failed(world)
    world.batch(RetryJob(world.job_ref(key)), CancelJob(world.job_ref(key), ""))
    assert state_of(world, key) == CANCELLED
    assert world.closed_job(key).retries == 1
    world.check()


# --- names ------------------------------------------------------------------------------------------------------------


def test_one_open_job_bears_a_unique_key() -> None:
    world = World()
    key = world.start_job(unique_key="u")
    with pytest.raises(errors.UniqueKeyInUse) as told:
        world.do(StartJob(new_job(unique_key="u")))
    assert told.value.job_id == world.job(key).job_id
    found = world.do(StartJob(new_job(unique_key="u"), conflict=Conflict.USE_EXISTING))
    assert found == StartedJob(world.job(key).job_id, key, started=False)
    assert world.do(StartJob(new_job(unique_key="u", namespace_id=2))).started


@pytest.mark.parametrize("reuse", list(Reuse))
@pytest.mark.parametrize("end", [completed, failed])
def test_a_unique_key_is_used_again_as_its_policy_says(reuse: Reuse, end: Callable[[World], int]) -> None:
    world = World()
    key = world.start_job(unique_key="u", details=ONCE)
    world.grant_job(key)
    world.do(COMMANDS["complete" if end is completed else "fail"](world, world.job_ref(key)))
    (answer,) = world.batch(StartJob(new_job(unique_key="u"), reuse=reuse))
    allowed = reuse == Reuse.ALLOW or (reuse == Reuse.ALLOW_IF_FAILED and end is failed)
    assert isinstance(answer, StartedJob if allowed else errors.JobExists)
    world.check()


def test_of_many_starts_in_a_batch_one_gets_the_key() -> None:
    world = World()
    answers = world.batch(*(StartJob(new_job(unique_key="u")) for _ in range(5)))
    assert sum(isinstance(each, StartedJob) for each in answers) == 1
    assert sum(isinstance(each, errors.UniqueKeyInUse) for each in answers) == 4
    world.check()


def test_a_key_freed_in_a_batch_is_taken_in_it() -> None:
    world = World()
    key = world.start_job(unique_key="u")
    _, answer = world.batch(CancelJob(world.job_ref(key), ""), StartJob(new_job(unique_key="u")))
    assert answer.started
    assert world.store.jobs.names["u", MAIN][0] == answer.job_key
    world.check()


def test_a_retry_is_refused_while_another_bears_the_key_and_takes_it_afterwards() -> None:
    world = World()
    key = world.start_job(unique_key="u", details=ONCE)
    world.grant_job(key)
    world.do(FailActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, FAILED))
    other = world.start_job(unique_key="u")
    with pytest.raises(errors.UniqueKeyInUse):
        world.do(RetryJob(world.job_ref(key)))
    world.do(CancelJob(world.job_ref(other), ""))
    world.do(RetryJob(world.job_ref(key)))
    with pytest.raises(errors.UniqueKeyInUse):
        world.do(StartJob(new_job(unique_key="u")))
    world.check()


def test_a_repeated_request_finds_its_job_and_another_body_is_refused() -> None:
    world = World()
    order = StartJob(new_job(job_id=uuid4()), request_id="r", request_hash=b"h")
    first, second = world.batch(order, order)
    assert (first.started, second.started, second.job_id) == (True, False, first.job_id)
    world.do(CancelJob(world.job_ref(first.job_key), ""))
    assert world.do(order) == second
    with pytest.raises(errors.RequestIdReused):
        world.do(StartJob(order.new, request_id="r", request_hash=b"other"))
    with pytest.raises(errors.JobExists):
        world.do(StartJob(order.new))


# --- among runs -------------------------------------------------------------------------------------------------------


def test_jobs_and_runs_share_a_batch_and_no_key() -> None:
    world = World()
    job, run = world.start_job(), world.start()
    assert job != run
    grants = world.claim(TaskKind.ACTIVITY, ("act",))
    assert [grant.key for grant in grants] == [(job, JOB_ORDINAL)]
    answers = world.batch(
        CancelJob(world.job_ref(run), ""),
        CompleteActivity(world.job_ref(job), JOB_ORDINAL, world.session, 1, CAME),
        ReturnTask(world.ref(job), 0, 1, world.session, counts=True, reason=""),
    )
    assert isinstance(answers[0], errors.JobNotFound)
    assert answers[1] == Outcome()
    assert isinstance(answers[2], errors.RunNotFound)
    assert world.write is not None
    assert world.write.ended == [job]
    world.check()


def test_claims_take_jobs_and_activities_by_priority_then_age() -> None:
    world = World()
    keys = []
    for priority in (4, 9, 4):
        keys.append(world.start_job(priority=priority))
        world.advance(1)
    assert [grant.key[0] for grant in world.claim(TaskKind.ACTIVITY, ("act",), 3)] == [keys[1], keys[0], keys[2]]
    assert world.claim(TaskKind.ACTIVITY, ("act",), 3) == []


def test_commands_of_a_job_locked_elsewhere_are_held_and_the_others_go_on() -> None:
    world = World()
    first, second = world.start_job(), world.start_job()
    world.store.locked.add(first)
    answers = world.batch(CancelJob(world.job_ref(first), ""), CancelJob(world.job_ref(second), ""))
    assert answers[0] is HELD
    assert answers[1].accepted


def test_nothing_crosses_namespaces() -> None:
    world = World()
    key = world.start_job()
    for ref in (JobRef(2, "b", key), JobRef(2, "b", job_id=world.job(key).job_id)):
        with pytest.raises(errors.JobNotFound):
            world.do(CancelJob(ref, ""))
    assert world.do(CancelJob(JobRef(MAIN, "main", job_id=world.job(key).job_id), "")).accepted
