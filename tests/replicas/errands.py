"""What programs ask for, each part of it of another replica: what one records, the other goes on with."""

from __future__ import annotations

import asyncio

from tests.chaos.worker import QUEUE, chore
from tests.replicas import worker

from stepwell import Client, Concurrency, Debounce, RateLimit, reasons
from stepwell.v1.user_tasks_pb2 import UserTask


async def tour(one: Client, other: Client, place: int) -> list[str]:
    """A run that is started at one replica, and all that it waits for comes by the other."""
    run = await one.start_run(worker.tour, place, task_queue=QUEUE)
    seen = other.run(run.run_id, as_type=list[int])
    await seen.update("add", 70)
    await other.topics.publish(f"news {place}", 10, retain=600)
    await one.user_tasks.complete((await _claimed(other, place)).task_id, "ann", 20)
    await seen.signal("paid", 30)
    assert await run.result() == [0, place, 4, 10, 20, 9, 30, 70]
    assert [found.run_id async for found in other.list_runs(filter=f"attribute.toured = {place}")] == [run.run_id]
    return [run.run_id]


async def _claimed(client: Client, place: int) -> UserTask:
    while True:
        found = [task async for task in client.user_tasks.inbox(user="ann", roles=[f"clerk {place}"])]
        if found:
            return await client.user_tasks.claim(found[0].task_id, "ann")
        await asyncio.sleep(0.02)


async def in_line(one: Client, other: Client, place: int) -> list[str]:
    """Runs of one key, of which two may be at work, started by turns: each gets a slot, whoever frees it."""
    limit = Concurrency(key=f"key {place}", maximum_runs=2)
    runs = [
        await client.start_run(worker.leaf, number, task_queue=QUEUE, concurrency=limit)
        for number, client in enumerate([one, other] * 4)
    ]
    assert [await run.result() for run in runs] == [number * number for number in range(8)]
    return [run.run_id for run in runs]


async def debounced(one: Client, other: Client, place: int) -> list[str]:
    """Two starts of a key are one run, which has the input of the second; a third begins anew."""
    once = Debounce(key=f"key {place}", period=0.5)
    first = await one.start_run(worker.leaf, 4, task_queue=QUEUE, debounce=once)
    second = await other.start_run(worker.leaf, 5, task_queue=QUEUE, debounce=once)
    assert first.run_id == second.run_id
    assert await first.result() == 25
    third = await other.start_run(worker.leaf, 6, task_queue=QUEUE, debounce=once)
    assert await third.result() == 36
    return [first.run_id, third.run_id]


async def steered(one: Client, other: Client, place: int) -> list[str]:
    """Paused by one and resumed by the other; a chain of runs; one name, one open run."""
    name = f"steered {place}"
    run = await one.start_run(worker.patience, place, workflow_id=name, task_queue=QUEUE)
    assert await other.run(workflow_id=name).pause("look")
    try:
        await other.start_run(worker.patience, place, workflow_id=name, task_queue=QUEUE)
        raise AssertionError("the name is in use")
    except reasons.WorkflowIdInUse:
        pass
    assert await one.run(run.run_id).resume()
    await other.run(run.run_id).signal("go", 3)
    assert await run.result() == 3
    linked = await other.start_run(worker.chain, 3, task_queue=QUEUE)
    assert await one.run(linked.run_id, as_type=int).result() == 0
    return [run.run_id, linked.run_id]


async def worked_off(one: Client, other: Client, place: int) -> list[str]:
    """Jobs of one unique key are one job while it is open; others are done one by one."""
    first = await one.start_job(chore, 5, unique_key=f"job {place}", start_delay=0.5, task_queue=QUEUE)
    again = await other.start_job(chore, 6, unique_key=f"job {place}", conflict="use_existing", task_queue=QUEUE)
    assert again.job_id == first.job_id
    more = [await client.start_job(chore, 7, task_queue=QUEUE) for client in (one, other)]
    assert [await job.result() for job in (first, *more)] == [25, 49, 49]
    return []


async def without_turns(today: Client, before: Client) -> None:
    """A limit of each key is set; then a server is told of an end of turns that knows of no such limit."""
    await today.update_task_queue(QUEUE, fairness={}, key_rate_limit=RateLimit(per_second=1000, burst=1000))
    first = await before.start_run(worker.leaf, 1, task_queue=QUEUE, fairness_key="a")
    assert await first.result() == 1
    await before.update_task_queue(QUEUE, fairness="none")
    assert not (await today.get_task_queue(QUEUE)).settings.HasField("key_rate_limit")
    runs = [await client.start_run(worker.leaf, 2, task_queue=QUEUE) for client in (today, before)]
    assert [await run.result() for run in runs] == [4, 4]


ALL = (tour, in_line, debounced, steered, worked_off)
