"""Task queues as people look at them: names, what waits by sort, who could take it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.stores import Store, create
from tests.service import refusal
from tests.stream.code import scheduled
from tests.stream.kit import ACTIVITY, RUN, SECONDS, Replica, capacity, until
from tests.stream.wire import wire

from stepwell.v1 import runs_pb2, task_queues_pb2, task_queues_pb2_grpc
from stepwell_server.store import batch_reads

Line = tuple[int, str, str, int, int, bool]


def stub(one: Replica) -> Any:
    return task_queues_pb2_grpc.TaskQueueServiceStub(one.channel)


async def listed(one: Replica, **fields: Any) -> list[task_queues_pb2.TaskQueue]:
    request = task_queues_pb2.ListTaskQueuesRequest(**fields)
    return list((await stub(one).ListTaskQueues(request, timeout=SECONDS)).task_queues)


async def shown(one: Replica, queue: str = "q", **fields: Any) -> task_queues_pb2.GetTaskQueueResponse:
    request = task_queues_pb2.GetTaskQueueRequest(task_queue=queue, **fields)
    answer: task_queues_pb2.GetTaskQueueResponse = await stub(one).GetTaskQueue(request, timeout=SECONDS)
    return answer


def lines(answer: task_queues_pb2.GetTaskQueueResponse) -> list[Line]:
    return [
        (each.kind, each.type, each.build_id, each.backlog.count, each.worker_count, each.is_stranded)
        for each in answer.lines
    ]


async def filled(one: Replica, count: int, queue: str = "q", **columns: Any) -> None:
    """Tasks that wait, of no run in particular."""
    told = {"kind": RUN, "type": "wf", "build_id": "", "rank": 5, "first": 1_000_000} | columns
    async with one.service.dispatcher.reader.connection() as connection:
        await connection.raw.execute(
            """
            INSERT INTO tasks
            SELECT $1 + n, 0, 1, $2, $3, $4, $5, now() - n * interval '1 s', $6
            FROM generate_series(0, $7 - 1) AS n
            """,
            told["first"],
            queue,
            told["kind"],
            told["type"],
            told["rank"],
            told["build_id"],
            count,
        )


async def test_a_queue_is_there_while_something_waits_or_somebody_takes(one: Replica) -> None:
    assert await listed(one) == []
    await one.start(queue="waits")
    async with wire(one, task_queues=["taken", "other"], capacity=capacity(runs=1)):
        queues = await until(lambda: listed(one), lambda found: len(found) == 3)
        assert [(each.task_queue, each.waiting_runs.count, each.worker_count) for each in queues] == [
            ("other", 0, 1),
            ("taken", 0, 1),
            ("waits", 1, 0),
        ]
        assert [each.is_stranded for each in queues] == [False, False, True]
    await until(lambda: listed(one), lambda found: [each.task_queue for each in found] == ["waits"])


async def test_what_waits_and_what_is_under_way(one: Replica) -> None:
    """The figures of assay's queue statistics."""
    await scheduled(one, 3)
    await one.start()
    async with wire(one, capacity=capacity(activities=1)) as first, wire(one, "second", capacity=capacity()):
        await first.task(ACTIVITY)
        found = await until(lambda: shown(one), lambda answer: answer.task_queue.worker_count == 2)
        (queue,) = (each for each in await listed(one) if each.task_queue == "q")
        assert queue.running_activity_count == found.task_queue.running_activity_count
        assert (queue.waiting_runs.count, queue.waiting_activities.count, queue.running_activity_count) == (1, 2, 1)
        assert (queue.namespace, queue.is_stranded) == ("main", False)
        assert not queue.waiting_runs.has_more
        assert queue.waiting_runs.HasField("oldest_wait_duration")


async def test_jobs_wait_and_are_under_way_as_activities(one: Replica) -> None:
    """Those that wait, those that somebody is at, and those that wait for nobody who is there."""
    for _ in range(3):
        await one.start_job()
    await one.start_job(type_="rare")
    async with wire(one, capacity=capacity(activities=2)) as stream:
        taken = [await stream.task(ACTIVITY) for _ in range(2)]
        queue = (await shown(one)).task_queue
        assert (queue.waiting_activities.count, queue.running_activity_count, queue.is_stranded) == (2, 2, True)
        assert lines(await shown(one))[:2] == [(ACTIVITY, "act", "", 1, 1, False), (ACTIVITY, "rare", "", 1, 0, True)]
        await stream.complete(taken[0])
        third = await stream.task(ACTIVITY)
        assert third.job_id not in {task.job_id for task in taken}
        (listed_queue,) = await listed(one)
        assert (listed_queue.waiting_activities.count, listed_queue.running_activity_count) == (1, 2)


async def test_activities_of_driven_runs_are_counted_and_called_so(one: Replica) -> None:
    """Their engines' workers claim them; who those are nobody here knows."""
    store = Store(one, "activity")
    run_id = await create(one)
    for seq in range(1, 4):
        assert (await store.call("CreateActivity", run_id=run_id, seq=seq, type="send", task_queue="q")).created
    assert (await store.call("ClaimActivity", task_queue="q", worker_id="theirs")).claimed
    answer = await shown(one)
    assert (answer.task_queue.waiting_activities.count, answer.task_queue.running_activity_count) == (2, 1)
    assert lines(answer) == [(ACTIVITY, "", "", 2, 0, False)]
    assert answer.lines[0].driven
    assert not answer.task_queue.is_stranded
    await one.namespace("other")
    assert (await shown(one, namespace="other")).task_queue.running_activity_count == 0


async def test_a_queue_sort_by_sort(one: Replica) -> None:
    await filled(one, 2)
    await filled(one, 3, build_id="v1", rank=0, first=2_000_000)
    await filled(one, 1, build_id="v2", first=3_000_000)
    await filled(one, 4, kind=ACTIVITY, type="slow", first=4_000_000)
    full = {"build_id": "v1", "activity_types": ["act"], "capacity": capacity(resident=7)}
    async with wire(one, **full) as stream:  # type: ignore[arg-type] # fields of a hello
        await stream.settled()
        answer = await until(lambda: shown(one), lambda found: found.task_queue.worker_count == 1)
        assert lines(answer) == [
            (RUN, "wf", "", 2, 1, False),
            (RUN, "wf", "v1", 3, 1, False),
            (RUN, "wf", "v2", 1, 0, True),
            (ACTIVITY, "slow", "", 4, 0, True),
            (ACTIVITY, "act", "", 0, 1, False),
        ]
        assert not answer.has_more_lines
        assert (answer.task_queue.waiting_runs.count, answer.task_queue.waiting_activities.count) == (6, 4)
        assert answer.task_queue.is_stranded
        oldest = [each.backlog.oldest_wait_duration.seconds for each in answer.lines]
        assert [2 <= seconds <= 60 for seconds in oldest[1:2]] == [True]
        assert oldest[3] >= 3
        assert not answer.lines[4].backlog.HasField("oldest_wait_duration")


async def test_stated_capacity_is_told(one: Replica) -> None:
    async with (
        wire(one, capacity=capacity(runs=3, activities=5, resident=7)) as first,
        wire(one, "second", capacity=capacity(activities=2), task_queues=["q", "r"]) as second,
    ):
        await first.settled()
        await second.settled()
        await scheduled(one, 1)
        await until(lambda: bool(first.working) or bool(second.working))
        runs, activities = (await shown(one)).capacities
        assert (runs.kind, runs.worker_count, runs.max_outstanding, runs.max_resident) == (RUN, 1, 3, 7)
        assert (activities.kind, activities.worker_count, activities.max_outstanding) == (ACTIVITY, 2, 7)
        assert (runs.outstanding, activities.outstanding) == (0, 1)
        _, activities = (await shown(one, "r")).capacities
        assert (activities.worker_count, activities.max_outstanding) == (1, 2)


async def test_places_kept_for_what_may_be_found_are_not_taken(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that the service looks for tasks for, and finds none, is not full meanwhile."""
    looked, may_go_on = asyncio.Event(), asyncio.Event()
    claim_tasks = batch_reads.claim_tasks

    async def slowly(*args: Any) -> Any:
        looked.set()
        await may_go_on.wait()
        return await claim_tasks(*args)

    monkeypatch.setattr(batch_reads, "claim_tasks", slowly)
    async with wire(one, capacity=capacity(runs=3, activities=5)):
        await looked.wait()
        shows = await shown(one)
        may_go_on.set()
    assert [each.outstanding for each in shows.capacities] == [0, 0]


async def test_counting_ends_at_a_bound_and_says_so(one: Replica) -> None:
    await filled(one, 10_000)
    assert not (await shown(one)).lines[0].backlog.has_more
    await filled(one, 5, first=2_000_000)
    answer = await shown(one)
    assert (answer.lines[0].backlog.count, answer.lines[0].backlog.has_more) == (10_000, True)
    assert (answer.task_queue.waiting_runs.count, answer.task_queue.waiting_runs.has_more) == (10_000, True)
    assert answer.lines[0].backlog.oldest_wait_duration.seconds >= 9_999


async def test_very_many_sorts_are_cut_and_say_so(one: Replica) -> None:
    async with one.service.dispatcher.reader.connection() as connection:
        await connection.raw.execute(
            "INSERT INTO tasks SELECT n, 0, 1, 'q', 1, 't' || n, 5, now(), '' FROM generate_series(1, 1001) AS n"
        )
    answer = await shown(one)
    assert (len(answer.lines), answer.has_more_lines, answer.task_queue.waiting_runs.count) == (1_000, True, 1_000)


async def test_queues_go_by_pages_and_stay_in_their_namespace(one: Replica) -> None:
    names = [f"queue {number}" for number in range(5)]
    for name in names:
        await one.start(queue=name)
    await one.namespace("other")
    await one.runs.StartRun(runs_pb2.StartRunRequest(namespace="other", type="wf", task_queue="theirs"))
    request = task_queues_pb2.ListTaskQueuesRequest(page_size=2)
    found: list[str] = []
    async with wire(one, task_queues=["queue 2", "queue 3b"]):
        await until(lambda: listed(one), lambda all_: len(all_) == 6)
        while True:
            page = await stub(one).ListTaskQueues(request)
            assert len(page.task_queues) <= 2
            found += [each.task_queue for each in page.task_queues]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    assert found == sorted([*names, "queue 3b"])
    assert [each.task_queue for each in await listed(one, namespace="other")] == ["theirs"]
    assert lines(await shown(one, "theirs")) == []
    assert lines(await shown(one, "theirs", namespace="other")) == [(RUN, "wf", "", 1, 0, True)]


async def test_a_queue_of_which_nothing_is_known_is_empty(one: Replica) -> None:
    answer = await shown(one, "nobody's")
    assert lines(answer) == []
    assert answer.task_queue.task_queue == "nobody's"
    assert not answer.task_queue.is_stranded


async def test_what_cannot_be_asked_is_refused(one: Replica) -> None:
    invalid = ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await refusal(shown(one, "")) == invalid
    assert await refusal(shown(one, "q\0")) == invalid
    assert await refusal(shown(one, "q" * 256)) == invalid
    assert (await refusal(shown(one, namespace="nowhere")))[1] == "NAMESPACE_NOT_FOUND"
    assert (await refusal(listed(one, page_token="x")))[1] == "PAGE_TOKEN_INVALID"
    assert await refusal(listed(one, page_size=-1)) == invalid
