"""ActivityStore: assay's contract cases by name, and what its own tests cannot tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import Reached, Store, at, create, json, read, span
from tests.service import TIMEOUT, Service, refusal, serving, soon

from stepwell.v1 import namespaces_pb2, runs_pb2, types_pb2
from stepwell_server.service import Service as Replica
from stepwell_server.settings import Settings

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = (
    types_pb2.STEP_STATE_PENDING,
    types_pb2.STEP_STATE_RUNNING,
    types_pb2.STEP_STATE_COMPLETED,
    types_pb2.STEP_STATE_FAILED,
    types_pb2.STEP_STATE_CANCELLED,
)
BEAT_LATE, TOOK_LONG = types_pb2.TIMEOUT_KIND_HEARTBEAT, types_pb2.TIMEOUT_KIND_START_TO_CLOSE


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "activity")


@pytest_asyncio.fixture
async def run_id(service: Service) -> str:
    return await create(service, workflow_id="w")


async def made(store: Store, run_id: str, seq: int = 1, **fields: Any) -> Any:
    """An activity that is to be had since the engine's beginning of time."""
    given = {"type": "send", "task_queue": "q", "schedule_time": at(-10 + seq), **fields}
    answer = await store.call("CreateActivity", run_id=run_id, seq=seq, **given)
    assert answer.created
    return answer.activity


async def claim(store: Store, worker_id: str = "w1", seconds: float = 0, **fields: Any) -> Any:
    given = {"task_queue": "q", "worker_id": worker_id, "now": at(seconds), **fields}
    return await store.call("ClaimActivity", **given)


async def found(store: Store, number: int) -> Any:
    answer = await store.call("GetActivity", activity_number=number)
    assert answer.found
    return answer.activity


async def timed_out(store: Store, seconds: float, **fields: Any) -> list[tuple[int, int]]:
    listed = await store.pages("ListTimedOutActivities", "activities", now=at(seconds), **fields)
    return [(each.activity.activity_number, each.timeout_kind) for each in listed]


# --- assay's contract -------------------------------------------------------------------------------------------------


async def test_assay_11_activity_create_and_claim(store: Store, run_id: str) -> None:
    activity = await made(store, run_id, input=json("[1]"), attempt=1)
    assert activity.activity_number > 0
    assert (activity.state, activity.attempt, activity.workflow_id, activity.input.json) == (PENDING, 1, "w", "[1]")
    by_seq = await store.call("GetActivity", run_id=run_id, seq=1)
    assert (by_seq.found, by_seq.activity) == (True, activity)
    assert await found(store, activity.activity_number) == activity
    first, second = await asyncio.gather(claim(store, "w1"), claim(store, "w2"))
    assert sorted((first.claimed, second.claimed)) == [False, True]
    winner = first if first.claimed else second
    assert (winner.activity.activity_number, winner.activity.state) == (activity.activity_number, RUNNING)
    assert (winner.activity.owner_id, winner.activity.attempt, winner.token) == ("w1" if first.claimed else "w2", 1, 1)
    assert winner.activity.input.json == "[1]"
    assert await found(store, activity.activity_number) == winner.activity


async def test_assay_12_activity_retry_on_failure(service: Service, store: Store, run_id: str) -> None:
    """Not to be had before its backoff is over, which assay's own claim forgets. History keeps what was."""
    number = (await made(store, run_id)).activity_number
    await claim(store)
    ended = await store.call("CompleteActivity", activity_number=number, failure={"message": "boom"})
    assert (ended.recorded, ended.activity.state, ended.activity.failure.message) == (True, FAILED, "boom")
    again = await store.call("RequeueActivityForRetry", activity_number=number, attempt=2, schedule_time=at(2))
    assert again.activity == await found(store, number)
    assert (again.activity.state, again.activity.attempt, again.activity.owner_id) == (PENDING, 2, "")
    assert (again.activity.HasField("failure"), again.activity.HasField("start_time")) == (False, False)
    assert again.activity.schedule_time == at(2)
    assert not (await claim(store, seconds=1)).claimed
    second = await claim(store, "w2", seconds=2)
    assert (second.claimed, second.activity.attempt, second.token) == (True, 2, 2)
    done = await store.call("CompleteActivity", activity_number=number, result=json("3"), token=2)
    assert (done.activity.state, done.activity.result.json, done.activity.attempt) == (COMPLETED, "3", 2)
    events = await Store(service, "event").pages("ReadEvents", "events", run_id=run_id)
    assert [event.type for event in events[1:]] == [
        "ActivityScheduled",
        "ActivityFailed",
        "ActivityRequeued",
        "ActivityCompleted",
    ]


async def test_assay_14_activity_heartbeat_timeout(store: Store, run_id: str) -> None:
    number = (await made(store, run_id, heartbeat_timeout=span(30))).activity_number
    await claim(store)
    beat = await store.call("HeartbeatActivity", activity_number=number, details=json("7"), now=at(10))
    assert (beat.recorded, beat.cancel_requested) == (True, False)
    activity = await found(store, number)
    assert (activity.heartbeat_time, activity.heartbeat_details.json) == (at(10), "7")
    assert await timed_out(store, 70) == [(number, BEAT_LATE)]
    assert await timed_out(store, 11) == []
    # A beat without details keeps them.
    await store.call("HeartbeatActivity", activity_number=number, now=at(60))
    assert (await found(store, number)).heartbeat_details.json == "7"
    assert await timed_out(store, 70) == []


async def test_assay_15_activity_cancel_pending(store: Store, run_id: str) -> None:
    """Those at work go on, and hear of it by their next heartbeat."""
    numbers = [(await made(store, run_id, seq)).activity_number for seq in (1, 2)]
    numbers.append((await made(store, run_id, 3, initial_state=RUNNING)).activity_number)
    assert (await store.call("CancelPendingActivities", run_id=run_id)).cancelled_count == 2
    assert (await store.call("CancelPendingActivities", run_id=run_id)).cancelled_count == 0
    activities = [await found(store, number) for number in numbers]
    assert [each.state for each in activities] == [CANCELLED, CANCELLED, RUNNING]
    assert [each.attempt for each in activities] == [1, 1, 1]
    assert (await store.call("HeartbeatActivity", activity_number=numbers[2])).cancel_requested
    assert not (await claim(store)).claimed
    assert (await store.call("CompleteActivity", activity_number=numbers[2])).activity.state == COMPLETED


async def test_assay_31_one_that_never_beat_times_out_too(store: Store, run_id: str) -> None:
    """Counted from its beginning; and an attempt that takes too long, which assay never looks at."""
    number = (await made(store, run_id, heartbeat_timeout=span(30), start_to_close_timeout=span(300))).activity_number
    await claim(store)
    assert await timed_out(store, 1) == []
    assert await timed_out(store, 60) == [(number, BEAT_LATE)]
    await store.call("HeartbeatActivity", activity_number=number, now=at(299))
    assert await timed_out(store, 299) == []
    assert await timed_out(store, 300) == [(number, TOOK_LONG)]
    await store.call("RequeueActivityForRetry", activity_number=number, attempt=2, schedule_time=at(300))
    assert await timed_out(store, 1_000) == []
    # The beat of the first attempt says nothing of the second.
    await claim(store, seconds=400)
    assert not (await found(store, number)).HasField("heartbeat_time")
    assert await timed_out(store, 430) == [(number, BEAT_LATE)]


async def test_assay_30_and_32_the_service_looks_after_a_managed_run(database_url: str) -> None:
    """Attempts left: again in its queue. None left: failed, with what timed out."""
    async with Replica(Settings(database_url=database_url, port=0, shutdown_seconds=1.0)) as replica:
        service = Reached(replica.address)
        store, run_id = Store(service, "activity"), await create(service, managed=True)
        retry = types_pb2.RetryPolicy(maximum_attempts=2, initial_interval=span(0))
        limits = {"heartbeat_timeout": span(0.05), "retry": retry, "task_queue": "q"}
        answer = await store.call("CreateActivity", run_id=run_id, seq=1, type="send", **limits)
        number = answer.activity.activity_number
        for attempt in (1, 2):
            claimed = await store.call("ClaimActivity", task_queue="q", worker_id="w")
            assert (claimed.claimed, claimed.activity.attempt) == (True, attempt)

            async def over(token: int = attempt) -> bool:
                beat = await store.call("HeartbeatActivity", activity_number=number, token=token + 9)
                return not beat.recorded and (await found(store, number)).state != RUNNING

            await soon(over)
        activity = await found(store, number)
        assert (activity.state, activity.attempt, activity.failure.timeout_kind) == (FAILED, 2, BEAT_LATE)
        assert (await read(service, run_id)).phase == types_pb2.RUN_PHASE_RUNNING
        await service.channel.close()


# --- beyond it --------------------------------------------------------------------------------------------------------


async def test_an_activity_goes_to_one_of_many_claimers(service: Service, store: Store, database_url: str) -> None:
    """64 at once, over two replicas, of two runs: each gets one, and no two the same."""
    run_ids = [await create(service) for _ in range(2)]
    for seq in range(32):
        await asyncio.gather(*(made(store, run_id, seq) for run_id in run_ids))
    async with serving(database_url) as other:
        stores = (store, Store(other, "activity"))
        claims = await asyncio.gather(*(claim(stores[place % 2], f"w{place}", 100) for place in range(64)))
        assert sum(each.claimed for each in claims) == 64
        assert len({each.activity.activity_number for each in claims}) == 64
        assert not any(each.claimed for each in await asyncio.gather(*(claim(each, "late", 100) for each in stores)))


async def test_what_has_waited_longest_goes_first(service: Service, store: Store) -> None:
    """Over the runs of a namespace, and by the time from when on it is to be had."""
    first, second = await create(service), await create(service)
    order = [(first, 1, 5), (second, 1, 3), (first, 2, 4), (second, 2, 1), (first, 3, 9)]
    numbers = {}
    for run_id, seq, seconds in order:
        numbers[seconds] = (await made(store, run_id, seq, schedule_time=at(seconds))).activity_number
    claimed = [(await claim(store, seconds=5)).activity.activity_number for _ in range(5)]
    assert claimed == [numbers[1], numbers[3], numbers[4], numbers[5], 0]


async def test_queues_and_namespaces_are_apart(service: Service, store: Store, run_id: str) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="ns"))
    elsewhere = await create(service, namespace="ns")
    await made(store, elsewhere, namespace="ns")
    await made(store, run_id, task_queue="other")
    assert not (await claim(store)).claimed
    there = await claim(store, namespace="ns")
    assert there.activity.run_id == elsewhere
    number = there.activity.activity_number
    assert not (await store.call("GetActivity", activity_number=number)).found
    assert (await store.call("GetActivity", namespace="-", activity_number=number)).activity == there.activity
    assert not (await store.call("HeartbeatActivity", activity_number=number)).recorded
    assert (await store.call("HeartbeatActivity", namespace="-", activity_number=number)).recorded
    assert await timed_out(store, 10_000, namespace="ns") == []
    for method in ("CompleteActivity", "RequeueActivityForRetry"):
        assert await refusal(
            store.call(method, activity_number=number, attempt=1)
            if "Re" in method
            else store.call(method, activity_number=number)
        ) == ("NOT_FOUND", "RUN_NOT_FOUND")
    done = await store.call("CompleteActivity", namespace="-", activity_number=number)
    assert done.activity.state == COMPLETED


async def test_an_activity_is_created_once(store: Store, run_id: str) -> None:
    asked = [
        store.call("CreateActivity", run_id=run_id, seq=0, type=f"t{place}", task_queue="q", schedule_time=at(0))
        for place in range(4)
    ]
    answers = await asyncio.gather(*asked)
    assert sum(answer.created for answer in answers) == 1
    (only,) = {answer.activity.activity_number for answer in answers}
    claimed = [await claim(store), await claim(store)]
    assert [each.activity.activity_number for each in claimed] == [only, 0]
    again = await store.call("CreateActivity", workflow_id="w", seq=0, type="late")
    assert (again.created, again.activity) == (False, claimed[0].activity)


async def test_a_stale_claim_changes_nothing(store: Store, run_id: str) -> None:
    """The first worker is late: its attempt was given to another. What it says without a token is taken."""
    number = (await made(store, run_id)).activity_number
    first = await claim(store, "w1")
    await store.call(
        "RequeueActivityForRetry", activity_number=number, attempt=2, schedule_time=at(0), token=first.token
    )
    late = {"activity_number": number, "token": first.token}
    refused = ("FAILED_PRECONDITION", "STEP_STATE_CONFLICT")
    assert await refusal(store.call("CompleteActivity", **late)) == refused
    second = await claim(store, "w2")
    for call in (
        store.call("CompleteActivity", **late),
        store.call("RequeueActivityForRetry", attempt=3, **late),
    ):
        assert await refusal(call) == ("FAILED_PRECONDITION", "LEASE_LOST")
    assert not (await store.call("HeartbeatActivity", **late)).recorded
    assert await found(store, number) == second.activity
    done = await store.call("CompleteActivity", activity_number=number, token=second.token, result=json("2"))
    again = await store.call("CompleteActivity", activity_number=number, token=second.token, result=json("9"))
    assert (done.recorded, again.recorded, again.activity) == (True, False, done.activity)
    for call in (
        store.call("CompleteActivity", activity_number=number),
        store.call("CompleteActivity", activity_number=number, token=second.token, failure={}),
        store.call("CompleteActivity", **late),
        store.call("RequeueActivityForRetry", activity_number=number, attempt=3),
    ):
        assert await refusal(call) == refused


async def test_a_waiting_activity_is_not_ended(store: Store, run_id: str) -> None:
    number = (await made(store, run_id)).activity_number
    call = store.call("CompleteActivity", activity_number=number)
    assert await refusal(call) == ("FAILED_PRECONDITION", "STEP_STATE_CONFLICT")
    assert not (await store.call("HeartbeatActivity", activity_number=number)).recorded
    # It may be put off, and then waits in its queue once.
    await store.call("RequeueActivityForRetry", activity_number=number, attempt=1, schedule_time=at(50))
    assert [(await claim(store, seconds=each)).claimed for each in (49, 50, 51)] == [False, True, False]


async def test_the_end_of_its_run_cancels_it(service: Service, store: Store, run_id: str) -> None:
    """Waiting or at work; nobody gets it any more, and nobody ends it."""
    numbers = [(await made(store, run_id, seq)).activity_number for seq in (1, 2)]
    await claim(store)
    await Store(service, "run").call("MarkRunCompleted", run_id=run_id)
    assert [(await found(store, number)).state for number in numbers] == [CANCELLED, CANCELLED]
    assert not (await claim(store)).claimed
    late = store.call("CompleteActivity", activity_number=numbers[0])
    assert await refusal(late) == ("FAILED_PRECONDITION", "STEP_STATE_CONFLICT")
    again = store.call("RequeueActivityForRetry", activity_number=numbers[0], attempt=2)
    assert await refusal(again) == ("FAILED_PRECONDITION", "RUN_TERMINAL")


async def test_a_cancelled_run_is_told_by_heartbeat(service: Service, store: Store, run_id: str) -> None:
    number = (await made(store, run_id)).activity_number
    await claim(store)
    await service.runs.CancelRun(runs_pb2.CancelRunRequest(run_id=run_id), timeout=TIMEOUT)
    beat = await store.call("HeartbeatActivity", activity_number=number)
    assert (beat.recorded, beat.cancel_requested) == (True, True)


async def test_the_engine_carries_the_runs_token(service: Service, store: Store, run_id: str) -> None:
    """To create and to cancel; workers, who do not hold the run, need none of it."""
    lease = await Store(service, "run").call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(60))
    late = store.call("CreateActivity", run_id=run_id, seq=1, type="t")
    assert await refusal(late) == ("FAILED_PRECONDITION", "LEASE_LOST")
    assert (await refusal(store.call("CancelPendingActivities", run_id=run_id)))[1] == "LEASE_LOST"
    number = (await made(store, run_id, token=lease.token)).activity_number
    await claim(store)
    assert (await store.call("CompleteActivity", activity_number=number)).recorded


async def test_timed_out_activities_are_paged(store: Store, run_id: str) -> None:
    """Also where their payloads fill a message, and where most of those that are looked at are alive."""
    numbers = []
    for seq in range(6):
        large = types_pb2.Payload(data=bytes(1_500_000 if seq < 4 else 1))
        numbers.append((await made(store, run_id, seq, input=large, heartbeat_timeout=span(30))).activity_number)
        await claim(store)
    await store.call("HeartbeatActivity", activity_number=numbers[1], now=at(99))
    expected = [(number, BEAT_LATE) for number in numbers if number != numbers[1]]
    assert await timed_out(store, 100) == expected
    assert await timed_out(store, 100, page_size=1) == expected


async def test_what_is_wrong_is_refused(service: Service, store: Store, run_id: str) -> None:
    number = (await made(store, run_id)).activity_number
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("CreateActivity", {"run_id": run_id, "seq": -1, "type": "t"}),
        ("CreateActivity", {"run_id": run_id, "seq": 2}),
        ("CreateActivity", {"run_id": run_id, "seq": 2, "type": "a\0"}),
        ("CreateActivity", {"run_id": run_id, "seq": 2, "type": "t", "attempt": -1}),
        ("CreateActivity", {"run_id": run_id, "seq": 2, "type": "t", "initial_state": COMPLETED}),
        ("CreateActivity", {"run_id": run_id, "seq": 2, "type": "t", "heartbeat_timeout": span(-1)}),
        ("CreateActivity", {"run_id": run_id, "seq": 2, "type": "t", "retry": {"backoff_coefficient": 0.5}}),
        ("CreateActivity", {"run_id": run_id, "seq": 2, "type": "t", "input": {"data": bytes(2**21 + 1)}}),
        ("CreateActivity", {"seq": 2, "type": "t"}),
        ("GetActivity", {"activity_number": number, "run_id": run_id}),
        ("GetActivity", {"activity_number": -1}),
        ("ClaimActivity", {"task_queue": "q"}),
        ("ClaimActivity", {"worker_id": "w"}),
        ("ClaimActivity", {"task_queue": "q", "worker_id": "w", "namespace": "-"}),
        ("RequeueActivityForRetry", {"activity_number": number}),
        ("RequeueActivityForRetry", {"attempt": 1}),
        ("CompleteActivity", {"activity_number": number, "result": {}, "failure": {}}),
        ("CompleteActivity", {"activity_number": 0}),
        ("HeartbeatActivity", {"activity_number": -(2**63)}),
        ("ListTimedOutActivities", {"page_size": -1}),
    ]
    for method, fields in wrong:
        assert await refusal(store.call(method, **fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD"), (method, fields)
    for method, fields in (("CompleteActivity", {}), ("RequeueActivityForRetry", {"attempt": 1})):
        unknown = store.call(method, activity_number=2**62, **fields)
        assert await refusal(unknown) == ("NOT_FOUND", "RUN_NOT_FOUND")
        missing = store.call(method, activity_number=number + 9, **fields)
        assert await refusal(missing) == ("NOT_FOUND", "STEP_NOT_FOUND")
    assert not (await store.call("GetActivity", activity_number=2**62)).found
    assert not (await store.call("GetActivity", workflow_id="unknown", seq=1)).found
    assert not (await store.call("HeartbeatActivity", activity_number=2**62)).recorded
    ours = await service.begin()
    assert (await refusal(store.call("CreateActivity", run_id=ours, seq=1, type="t")))[1] == "RUN_NOT_DRIVEN"
    assert (await found(store, number)).state == PENDING
