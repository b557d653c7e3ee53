"""assay's `WorkflowStore`, a case for each method that is answered, second part: work, time and workers."""

from __future__ import annotations

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from tests.api.stores import at, json, span
from tests.parity.cases import Engine, answers, schedule

from stepwell.v1 import mirrors_pb2, types_pb2

TRAIT = mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE
ACTIVITY_PENDING, ACTIVITY_RUNNING, ACTIVITY_COMPLETED, ACTIVITY_FAILED, ACTIVITY_CANCELLED = (
    types_pb2.STEP_STATE_PENDING,
    types_pb2.STEP_STATE_RUNNING,
    types_pb2.STEP_STATE_COMPLETED,
    types_pb2.STEP_STATE_FAILED,
    types_pb2.STEP_STATE_CANCELLED,
)


async def activity(engine: Engine, seq: int = 1, **fields: Any) -> Any:
    given = {"workflow_id": "w", "type": "send", "task_queue": "q", "schedule_time": at(0), **fields}
    return (await engine.call("CreateActivity", seq=seq, **given)).activity


async def claim(engine: Engine, worker_id: str = "w1") -> Any:
    return await engine.call("ClaimActivity", task_queue="q", worker_id=worker_id, now=at(0))


async def found(engine: Engine, number: int) -> Any:
    return (await engine.call("GetActivity", namespace="-", activity_number=number)).activity


# --- activities -------------------------------------------------------------------------------------------------------


@answers(TRAIT, "create_activity")
async def test_create_activity(engine: Engine) -> None:
    await engine.create()
    asked = {"workflow_id": "w", "seq": 1, "type": "send", "task_queue": "q", "retry": {"maximum_attempts": 3}}
    first = await engine.call("CreateActivity", input=json("1"), heartbeat_timeout=span(30), **asked)
    assert (first.created, first.activity.activity_number > 0, first.activity.state) == (True, True, ACTIVITY_PENDING)
    assert (first.activity.attempt, first.activity.retry.maximum_attempts) == (1, 3)
    again = await engine.call("CreateActivity", **asked)
    assert (again.created, again.activity) == (False, first.activity)


@answers(TRAIT, "get_activity")
async def test_get_activity(engine: Engine) -> None:
    await engine.create()
    made = await activity(engine, input=json("1"))
    answer = await engine.call("GetActivity", namespace="-", activity_number=made.activity_number)
    assert (answer.found, answer.activity, answer.activity.input.json) == (True, made, "1")
    assert not (await engine.call("GetActivity", namespace="-", activity_number=made.activity_number + 1)).found


@answers(TRAIT, "get_activity_by_workflow_seq")
async def test_get_activity_by_workflow_seq(engine: Engine) -> None:
    await engine.create()
    made = await activity(engine, 7)
    answer = await engine.call("GetActivity", workflow_id="w", seq=7)
    assert (answer.found, answer.activity) == (True, made)
    assert not (await engine.call("GetActivity", workflow_id="w", seq=8)).found


@answers(TRAIT, "claim_activity")
async def test_claim_activity(engine: Engine) -> None:
    await engine.create()
    made = await activity(engine)
    first, second = await claim(engine, "w1"), await claim(engine, "w2")
    assert (first.claimed, second.claimed) == (True, False)
    assert (first.activity.activity_number, first.activity.state) == (made.activity_number, ACTIVITY_RUNNING)
    assert (first.activity.owner_id, first.activity.start_time) == ("w1", at(0))


@answers(TRAIT, "requeue_activity_for_retry")
async def test_requeue_activity_for_retry(engine: Engine) -> None:
    await engine.create()
    number = (await activity(engine)).activity_number
    await claim(engine)
    await engine.call("CompleteActivity", activity_number=number, failure={"message": "boom"})
    asked = {"namespace": "-", "activity_number": number, "attempt": 2, "schedule_time": at(2)}
    waiting = (await engine.call("RequeueActivityForRetry", **asked)).activity
    assert (waiting.state, waiting.attempt, waiting.owner_id) == (ACTIVITY_PENDING, 2, "")
    assert (waiting.schedule_time, waiting.HasField("failure")) == (at(2), False)
    assert not (await claim(engine)).claimed


@answers(TRAIT, "complete_activity")
async def test_complete_activity(engine: Engine) -> None:
    await engine.create()
    numbers = [(await activity(engine, seq)).activity_number for seq in (1, 2)]
    await claim(engine)
    await claim(engine)
    done = await engine.call("CompleteActivity", namespace="-", activity_number=numbers[0], result=json("1"))
    failed = await engine.call("CompleteActivity", activity_number=numbers[1], failure={"message": "boom"})
    assert (done.activity.state, done.activity.result.json) == (ACTIVITY_COMPLETED, "1")
    assert (failed.activity.state, failed.activity.failure.message) == (ACTIVITY_FAILED, "boom")


@answers(TRAIT, "heartbeat_activity")
async def test_heartbeat_activity(engine: Engine) -> None:
    await engine.create()
    number = (await activity(engine)).activity_number
    await claim(engine)
    asked = {"namespace": "-", "activity_number": number}
    beat = await engine.call("HeartbeatActivity", details=json("0.5"), now=at(5), **asked)
    assert (beat.recorded, beat.cancel_requested) == (True, False)
    assert ((await found(engine, number)).heartbeat_time, (await found(engine, number)).heartbeat_details.json) == (
        at(5),
        "0.5",
    )
    await engine.call("CancelPendingActivities", workflow_id="w")
    assert (await engine.call("HeartbeatActivity", **asked)).cancel_requested


@answers(TRAIT, "get_timed_out_activities")
async def test_get_timed_out_activities(engine: Engine) -> None:
    await engine.create()
    number = (await activity(engine, heartbeat_timeout=span(30))).activity_number
    await claim(engine)
    await engine.call("HeartbeatActivity", activity_number=number, now=at(10))
    (late,) = await engine.pages("ListTimedOutActivities", "activities", now=at(70))
    assert (late.activity.activity_number, late.timeout_kind) == (number, types_pb2.TIMEOUT_KIND_HEARTBEAT)
    assert await engine.pages("ListTimedOutActivities", "activities", now=at(11)) == []


@answers(TRAIT, "cancel_pending_activities")
async def test_cancel_pending_activities(engine: Engine) -> None:
    await engine.create()
    numbers = [(await activity(engine, seq)).activity_number for seq in (1, 2, 3)]
    running = (await claim(engine)).activity.activity_number
    assert (await engine.call("CancelPendingActivities", workflow_id="w")).cancelled_count == 2
    states = {number: (await found(engine, number)).state for number in numbers}
    assert states == {number: ACTIVITY_RUNNING if number == running else ACTIVITY_CANCELLED for number in numbers}


# --- timers and signals -----------------------------------------------------------------------------------------------


@answers(TRAIT, "create_timer")
async def test_create_timer(engine: Engine) -> None:
    await engine.create()
    first = await engine.call("CreateTimer", workflow_id="w", seq=1, fire_time=at(5))
    again = await engine.call("CreateTimer", workflow_id="w", seq=1, fire_time=at(9))
    assert (first.created, first.timer.timer_number > 0, first.timer.fire_time) == (True, True, at(5))
    assert (again.created, again.timer) == (False, first.timer)


@answers(TRAIT, "get_timer_by_workflow_seq")
async def test_get_timer_by_workflow_seq(engine: Engine) -> None:
    await engine.create()
    made = await engine.call("CreateTimer", workflow_id="w", seq=1, fire_time=at(5))
    answer = await engine.call("GetTimer", workflow_id="w", seq=1)
    assert (answer.found, answer.timer) == (True, made.timer)
    assert not (await engine.call("GetTimer", workflow_id="w", seq=2)).found


@answers(TRAIT, "fire_due_timers")
async def test_fire_due_timers(engine: Engine) -> None:
    await engine.create()
    for seq in (1, 2):
        await engine.call("CreateTimer", workflow_id="w", seq=seq, fire_time=at(seq))
    (timer,) = (await engine.call("FireDueTimers", now=at(1))).timers
    assert (timer.workflow_id, timer.seq, timer.state) == ("w", 1, types_pb2.STEP_STATE_COMPLETED)
    assert list((await engine.call("FireDueTimers", now=at(1))).timers) == []


@answers(TRAIT, "cancel_pending_timers")
async def test_cancel_pending_timers(engine: Engine) -> None:
    await engine.create()
    for seq in (1, 2):
        await engine.call("CreateTimer", workflow_id="w", seq=seq, fire_time=at(0))
    assert (await engine.call("CancelPendingTimers", workflow_id="w")).cancelled_count == 2
    assert list((await engine.call("FireDueTimers", now=at(1))).timers) == []


@answers(TRAIT, "send_signal")
async def test_send_signal(engine: Engine) -> None:
    await engine.create()
    sent = [await engine.call("SendSignal", workflow_id="w", signal_name="s", payload=json(str(n))) for n in range(2)]
    assert all(each.recorded for each in sent)
    assert len({each.signal_number for each in sent}) == 2


@answers(TRAIT, "consume_signals")
async def test_consume_signals(engine: Engine) -> None:
    await engine.create()
    for name, number in (("s", 1), ("other", 2), ("s", 3)):
        await engine.call("SendSignal", workflow_id="w", signal_name=name, payload=json(str(number)))
    taken = await engine.call("ConsumeSignals", workflow_id="w", signal_name="s")
    assert [(each.signal_name, each.payload.json) for each in taken.signals] == [("s", "1"), ("s", "3")]
    assert list((await engine.call("ConsumeSignals", workflow_id="w", signal_name="s")).signals) == []


# --- schedules --------------------------------------------------------------------------------------------------------


@answers(TRAIT, "create_schedule")
async def test_create_schedule(engine: Engine) -> None:
    made = (await engine.call("CreateSchedule", schedule=schedule("s"))).schedule
    assert (made.name, made.paused, made.HasField("next_time")) == ("s", False, True)


@answers(TRAIT, "get_schedule")
async def test_get_schedule(engine: Engine) -> None:
    made = (await engine.call("CreateSchedule", schedule=schedule("s"))).schedule
    assert (await engine.call("GetSchedule", name="s")).schedule == made


@answers(TRAIT, "list_schedules")
async def test_list_schedules(engine: Engine) -> None:
    for name in "ba":
        await engine.call("CreateSchedule", schedule=schedule(name))
    assert [each.name for each in await engine.pages("ListSchedules", "schedules", page_size=1)] == ["a", "b"]


@answers(TRAIT, "update_schedule_last_run")
async def test_update_schedule_last_run(engine: Engine) -> None:
    await engine.call("CreateSchedule", schedule=schedule("s"))
    await engine.call("RecordScheduleRun", name="s", last_time=at(0), next_time=at(3.2e9), workflow_id="s-1")
    stored = (await engine.call("GetSchedule", name="s")).schedule
    assert (stored.last_time, stored.next_time, stored.last_workflow_id) == (at(0), at(3.2e9), "s-1")


@answers(TRAIT, "delete_schedule")
async def test_delete_schedule(engine: Engine) -> None:
    await engine.call("CreateSchedule", schedule=schedule("s"))
    assert [(await engine.call("DeleteSchedule", name="s")).deleted for _ in range(2)] == [True, False]


@answers(TRAIT, "update_schedule")
async def test_update_schedule(engine: Engine) -> None:
    await engine.call("CreateSchedule", schedule=schedule("s"))
    patched = await engine.call(
        "UpdateSchedule", schedule=schedule("s", cron="0 9 1 1 *"), update_mask=FieldMask(paths=["spec.cron"])
    )
    assert (patched.schedule.spec.cron, patched.schedule.run.type) == ("0 9 1 1 *", "t")


@answers(TRAIT, "set_schedule_paused")
async def test_set_schedule_paused(engine: Engine) -> None:
    await engine.call("CreateSchedule", schedule=schedule("s"))
    assert (await engine.call("PauseSchedule", name="s")).schedule.paused
    assert (await engine.call("GetSchedule", name="s")).schedule.paused
    assert not (await engine.call("ResumeSchedule", name="s")).schedule.paused


# --- queues, workers and leadership -----------------------------------------------------------------------------------


@answers(TRAIT, "get_queue_stats")
async def test_get_queue_stats(engine: Engine) -> None:
    await engine.create()
    for seq, queue in enumerate(("alpha", "alpha", "beta", "beta")):
        await activity(engine, seq, task_queue=queue)
    await engine.call("ClaimActivity", task_queue="beta", worker_id="b", now=at(0))
    for worker_id, queue in (("a1", "alpha"), ("a2", "alpha"), ("b", "beta"), ("c", "idle")):
        await engine.call("RegisterWorker", worker_id=worker_id, task_queue=queue)
    queues = await engine.pages("ListTaskQueues", "task_queues", page_size=1)
    stats = [(each.task_queue, each.waiting_activities.count, each.running_activity_count) for each in queues]
    assert stats == [("alpha", 2, 0), ("beta", 1, 1), ("idle", 0, 0)]
    assert [each.worker_count for each in queues] == [2, 1, 1]


@answers(TRAIT, "register_worker")
async def test_register_worker(engine: Engine) -> None:
    asked = {"worker_id": "a", "identity": "h", "task_queue": "q", "activity_types": ["send"]}
    first = await engine.call("RegisterWorker", max_concurrent_activities=20, **asked)
    assert (first.created, first.worker.task_queue, first.worker.max_concurrent_activities) == (True, "q", 20)
    assert not (await engine.call("RegisterWorker", **asked)).created


@answers(TRAIT, "heartbeat_worker")
async def test_heartbeat_worker(engine: Engine) -> None:
    """By its id alone."""
    worker_id = f"a-{engine.namespace}"
    await engine.call("RegisterWorker", worker_id=worker_id, now=at(0))
    assert (await engine.call("HeartbeatWorker", namespace="-", worker_id=worker_id, now=at(100))).known
    (worker,) = await engine.pages("ListRegisteredWorkers", "workers")
    assert worker.heartbeat_time == at(100)
    assert not (await engine.call("HeartbeatWorker", namespace="-", worker_id="unknown")).known


@answers(TRAIT, "list_workers")
async def test_list_workers(engine: Engine) -> None:
    for place, worker_id in enumerate("ba"):
        await engine.call("RegisterWorker", worker_id=worker_id, now=at(place))
    listed = await engine.pages("ListRegisteredWorkers", "workers", page_size=1)
    assert [worker.worker_id for worker in listed] == ["b", "a"]


@answers(TRAIT, "remove_dead_workers")
async def test_remove_dead_workers(engine: Engine) -> None:
    for worker_id in ("alive", "dead"):
        await engine.call("RegisterWorker", worker_id=worker_id, now=at(0))
    await engine.call("HeartbeatWorker", worker_id="alive", now=at(200))
    assert list((await engine.call("RemoveDeadWorkers", cutoff=at(100))).worker_ids) == ["dead"]
    assert [worker.worker_id for worker in await engine.pages("ListRegisteredWorkers", "workers")] == ["alive"]


@answers(TRAIT, "try_acquire_scheduler_lock")
async def test_try_acquire_scheduler_lock(engine: Engine) -> None:
    asked = {"leadership": "scheduler", "ttl": span(60)}
    assert (await engine.call("AcquireLeadership", holder_id="a", **asked)).acquired
    other = await engine.call("AcquireLeadership", holder_id="b", **asked)
    assert (other.acquired, other.holder_id) == (False, "a")
