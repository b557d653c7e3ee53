"""The service killed, and its commits cut off, while people claim and complete tasks that runs wait for.

A task's row, its run's step and its history change together: what somebody was told stands in all three, and once.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from tests.chaos.commits import CommitCutter, through
from tests.chaos.kit import Proxy, Stage, connected, free_port, results, until

from stepwell import Client, Context, StepwellError, Worker, reasons, workflow
from stepwell_server.model.events import EventType
from stepwell_server.model.steps import StepState
from stepwell_server.model.user_tasks import TaskStatus

RUNS, TASKS, PEOPLE = 25, 3, 4
# Tasks whose row says another thing than their step, or than history.
TORN = f"""
    SELECT count(*) FROM user_tasks AS t
    LEFT JOIN closed_steps AS s ON s.run_key = t.run_key AND s.ordinal = t.ordinal
    WHERE t.status <> {int(TaskStatus.COMPLETED)} OR s.state IS DISTINCT FROM {int(StepState.COMPLETED)}
        OR s.end_event <> t.output_event OR s.timed_out OR 1 <> (
            SELECT count(*) FROM events AS e
            WHERE e.run_key = t.run_key AND e.step_ordinal = t.ordinal
                AND e.type = {int(EventType.USER_TASK_COMPLETED)} AND e.number = t.output_event
        )
"""  # noqa: S608 - ours


@workflow
async def asks(ctx: Context) -> list[int]:
    return [await ctx.user_task("count", role="clerk", as_type=int) for _ in range(TASKS)]


class Office:
    """People who take what is in the inbox, and note what was accepted of them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.accepted: dict[str, tuple[str, int, int]] = {}  # the run, the step and the value, by task
        self._values = itertools.count(1)

    async def work(self, user: str) -> None:
        """Until there is nothing to do for good."""
        while True:
            try:
                tasks = [task async for task in self.client.user_tasks.inbox(roles=["clerk"])]
            except StepwellError:
                tasks = []
            if tasks:
                task = random.choice(tasks)
                await self._do(task.task_id, (task.run_id, task.step_ordinal), user)
            await asyncio.sleep(0.01)

    async def _do(self, task_id: str, step: tuple[str, int], user: str) -> None:
        """Claims a task and completes it. Who does not hear what came of that says the same again."""
        value = next(self._values)
        while True:
            try:
                await self.client.user_tasks.claim(task_id, user)
                break
            except reasons.UserTaskStateConflict:
                return
            except StepwellError:
                continue
        while True:
            try:
                await self.client.user_tasks.complete(task_id, user, value)
                break
            except reasons.UserTaskStateConflict:
                raise
            except StepwellError:
                continue
        assert task_id not in self.accepted
        self.accepted[task_id] = (*step, value)


@asynccontextmanager
async def at_work(client: Client, office: Office) -> AsyncIterator[None]:
    worker = Worker(client, "people", workflows=[asks], drain_seconds=1)
    tasks = [asyncio.create_task(office.work(f"u{number}")) for number in range(PEOPLE)]
    tasks.append(asyncio.create_task(worker.run()))
    try:
        yield
    finally:
        worker.shutdown()
        for task in tasks[:-1]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for each in ended if isinstance(each, Exception)] == []


async def all_stands(scene: Stage, office: Office, run_ids: list[str], came: list[list[int]]) -> None:
    """Each run came to what was accepted for it, in order; and rows, steps and history agree."""
    wanted: dict[str, list[int]] = {run_id: [] for run_id in run_ids}
    # A run may go on before the one whose answer it had has heard that it was accepted.
    for run_id, _, value in sorted(office.accepted.values()):
        wanted[run_id].append(value)
    assert dict(zip(run_ids, came, strict=True)) == wanted
    sql = await asyncpg.connect(scene.database_url, server_settings={"search_path": "stepwell"})
    assert await sql.fetchval(TORN) == 0
    assert await sql.fetchval("SELECT count(*) FROM user_tasks") == len(run_ids) * TASKS == len(office.accepted)
    await sql.close()


async def test_the_service_killed_while_people_complete(scene: Stage) -> None:
    port = free_port()
    server = await scene.server(port)
    async with connected(f"127.0.0.1:{port}") as (client,):
        office = Office(client)
        handles = await asyncio.gather(*(client.start_run(asks, task_queue="people") for _ in range(RUNS)))
        async with at_work(client, office):
            for count in (10, 30, 50):
                await until(lambda count=count: len(office.accepted) >= count)  # type: ignore[misc]
                await server.kill()
                server = await scene.server(port)
            came = await results(handles, 90)
            await until(lambda: len(office.accepted) == RUNS * TASKS)
        await all_stands(scene, office, [handle.run_id for handle in handles], came)


async def test_commits_cut_off_while_people_complete(scene: Stage, between: Proxy) -> None:
    """Before they arrive, and before their reply: whoever repeats is answered from what stands."""
    port = free_port()
    await scene.server(port, through(scene.database_url, between))
    async with connected(f"127.0.0.1:{port}") as (client,):
        office = Office(client)
        handles = await asyncio.gather(*(client.start_run(asks, task_queue="people") for _ in range(RUNS)))
        cutter = CommitCutter(between, every=8)
        async with at_work(client, office):
            came = await results(handles, 90)
            await until(lambda: len(office.accepted) == RUNS * TASKS)
        cutter.stop()
        assert cutter.before >= 2
        assert cutter.after >= 2
        await all_stands(scene, office, [handle.run_id for handle in handles], came)
