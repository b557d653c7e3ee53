"""The service and Postgres killed while an outside engine fires its timers: each fires with its event, or waits."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from tests.chaos.commits import CommitHolder, is_over, through
from tests.chaos.kit import Proxy, Stage, connect, free_port, until
from tests.chaos.test_database import kill, looking, on_stage

from stepwell import StepwellError
from stepwell.stores.assay import WorkflowRecord, WorkflowStore, WorkflowTimer
from stepwell_server.model.events import EventType
from stepwell_server.model.steps import Kind, StepState

TIMERS = 3
# Timers that wait, that have fired, and that history says to have fired; the last by the timers that it names.
SEEN = f"""
    SELECT
        (SELECT count(*) FROM stepwell.steps WHERE kind = {int(Kind.TIMER)}),
        (SELECT count(*) FROM stepwell.closed_steps
            WHERE kind = {int(Kind.TIMER)} AND state = {int(StepState.COMPLETED)}),
        (SELECT count(DISTINCT (run_key, step_ordinal)) FROM stepwell.events WHERE type = {int(EventType.TIMER_FIRED)}),
        (SELECT count(*) FROM stepwell.events WHERE type = {int(EventType.TIMER_FIRED)})
"""  # noqa: S608 - ours
WAITING, FIRED = (TIMERS, 0, 0, 0), (0, TIMERS, TIMERS, TIMERS)


async def seen(look: asyncpg.Connection) -> tuple[int, ...]:
    (row,) = await look.fetch(SEEN)
    return tuple(row)


async def due(address: str) -> WorkflowStore:
    """The engine's store, with timers of several runs that are due."""
    await (await connect(address)).close()
    store = WorkflowStore.connect(address)
    for seq in range(TIMERS):
        await store.create_workflow(WorkflowRecord(id=f"w{seq}", workflow_type="t", task_queue="q"))
        await store.create_timer(WorkflowTimer(workflow_id=f"w{seq}", seq=seq, fire_at=1000.0))
    return store


async def fired(store: WorkflowStore) -> list[WorkflowTimer]:
    """Asks until there is an answer."""
    while True:
        try:
            return await store.fire_due_timers(2000.0)
        except StepwellError:
            await asyncio.sleep(0.05)


async def judged(store: WorkflowStore, look: asyncpg.Connection, answer: list[WorkflowTimer], reply: bool) -> None:
    """All have fired, each once. Whose answer was lost finds nothing more to fire."""
    assert [timer.seq for timer in answer] == ([] if reply else list(range(TIMERS)))
    assert await fired(store) == []
    assert await seen(look) == FIRED


@pytest.mark.parametrize("reply", [False, True], ids=["before the commit", "before its reply"])
async def test_the_service_killed_while_it_fires_timers(scene: Stage, between: Proxy, reply: bool) -> None:
    port = free_port()
    server = await scene.server(port, through(scene.database_url, between), IDLE_TRANSACTION_SECONDS="60")
    async with await due(f"127.0.0.1:{port}") as store, looking(scene.database_url) as look:
        holder = CommitHolder(between, look, reply=reply)
        asked = asyncio.create_task(fired(store))
        xid = await holder.held()
        assert await seen(look) == (FIRED if reply else WAITING)
        await server.kill()
        holder.lose()
        await until(lambda: is_over(look, xid))
        assert await seen(look) == (FIRED if reply else WAITING)
        await scene.server(port)
        await judged(store, look, await asked, reply)


@pytest.mark.parametrize("reply", [False, True], ids=["before the commit", "before its reply"])
async def test_postgres_killed_while_timers_fire(tmp_path: Path, session_dir: Path, reply: bool) -> None:
    """The service finds out what became of it: the engine is told which fired."""
    port = free_port()
    async with AsyncExitStack() as stack:
        postgres, scene = await stack.enter_async_context(on_stage(tmp_path, session_dir))
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
        await scene.server(port, through(scene.database_url, proxy), IDLE_TRANSACTION_SECONDS="60")
        store = await stack.enter_async_context(await due(f"127.0.0.1:{port}"))
        look = await stack.enter_async_context(looking(scene.database_url))
        holder = CommitHolder(proxy, look, reply=reply)
        asked = asyncio.create_task(fired(store))
        await holder.held()
        restarts = postgres.restart_count
        kill(postgres)
        holder.lose()
        await postgres.wait_restarted(restarts)
        look = await stack.enter_async_context(looking(scene.database_url))
        answer = await asked
        assert [timer.seq for timer in answer] in (list(range(TIMERS)), [])
        assert await fired(store) == []
        assert await seen(look) == FIRED
