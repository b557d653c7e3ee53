"""Claims on a real Postgres: no task is shared, held up, or lost with its claimer."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from tests.engine.code import COMPLETED
from tests.engine.replica import MAIN, Replica, claim, end_of, look, ref, replica

from stepwell_server import errors
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.committer.protocols import ActivityClaim
from stepwell_server.engine.driven_activities import CreateActivity
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.runs import CancelRun, PauseRun, ResumeRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import Started
from stepwell_server.model.payloads import NULL
from stepwell_server.model.tasks import Grant


def signal(started: Started, name: str = "s", signal_id: str | None = None) -> SignalRun:
    return SignalRun(ref(started), name, NULL, signal_id)


async def test_claimers_on_two_replicas_never_share_a_task(database_url: str) -> None:
    """64 claimers, half on each of two replicas: every task is granted once, and all are."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        await asyncio.gather(*(one.start() for _ in range(300)))
        granted: list[tuple[UUID, Grant]] = []

        async def work(server: Replica, session: UUID) -> None:
            while len(granted) < 300:
                granted.extend((session, grant) for grant in await server.do(claim(session, 3)))
                await asyncio.sleep(0.001)

        await asyncio.wait_for(asyncio.gather(*(work(one if n % 2 else two, uuid4()) for n in range(64))), 60)
        assert len(granted) == 300
        assert len({grant.run.run_key for _, grant in granted}) == 300
        held = {row[0]: row[1] for row in await database.rows("SELECT run_key, session_id FROM runs")}
        assert held == {grant.run.run_key: session for session, grant in granted}
        assert await database.value("SELECT max(grants) FROM runs") == 1
        await database.check()


async def test_a_claim_takes_of_its_own_namespace_and_queue(database_url: str) -> None:
    async with replica(database_url) as server, look(database_url) as database:
        insert = "INSERT INTO namespaces (name, create_time) VALUES ('other', now()) RETURNING namespace_id"
        await server.start(namespace_id=await database.value(insert), namespace="other")
        await server.start(task_queue="elsewhere")
        assert await server.claim(10) == []
        mine = await server.start()
        (grant,) = await server.claim(10)
        assert grant.run.run_key == mine.run_key


async def test_a_claim_that_finds_no_more_gets_what_its_own_batch_starts(database_url: str) -> None:
    """So many as it has room for, of what it asks for. Those have no rows in the table."""
    async with replica(database_url) as server, look(database_url) as database:
        waiting = await server.start()
        asked, *started = await asyncio.gather(
            server.do(claim(server.session, 3)),
            server.start(task_queue="elsewhere"),
            server.start(type="other"),
            *(server.start() for _ in range(4)),
        )
        assert [grant.run.run_key for grant in asked] == [waiting.run_key, started[2].run_key, started[3].run_key]
        left = {row[0] for row in await database.rows("SELECT run_key FROM tasks")}
        assert left == {started[place].run_key for place in (0, 1, 4, 5)}
        await database.check()


async def test_a_claim_passes_over_tasks_that_another_is_about_to_take(database_url: str) -> None:
    """Somebody else's lock on a task holds up no claim: the next one is taken at once."""
    async with replica(database_url) as server, look(database_url) as other:
        first, second = await server.start(), await server.start()
        async with other.raw.transaction():
            await other.raw.execute("SELECT * FROM tasks WHERE run_key = $1 FOR UPDATE", first.run_key)
            (grant,) = await asyncio.wait_for(server.claim(1), 0.8)
        assert grant.run.run_key == second.run_key


async def test_tasks_claimed_for_a_caller_who_left_return(database_url: str) -> None:
    """The caller's call was cancelled while its claim was being committed: nobody would ever work on its tasks."""
    async with replica(database_url) as server, look(database_url) as database:
        await server.start()
        future = server.submit(claim(server.session))
        finish = server.committer._finish

        def leave_first(*batch: object) -> None:
            future.cancel()
            server.committer._finish = finish
            finish(*batch)

        server.committer._finish = leave_first
        for _ in range(200):
            await asyncio.sleep(0.01)
            if await database.value("SELECT grants = 1 AND queued FROM runs"):
                break
        (grant,) = await server.claim()
        assert grant.run.grants == 2


async def test_an_activity_claimed_for_a_caller_who_left_returns(database_url: str) -> None:
    """As if it had not been claimed, but for its token."""
    async with replica(database_url) as server, look(database_url) as database:
        started = await server.start(driven=True, managed=False)
        new = NewActivity("send", "q")
        await server.do(CreateActivity(ref(started), 1, new, 1, None, running=False, token=0))
        future = server.submit(ActivityClaim(MAIN, "main", "q", "w", None))
        finish = server.committer._finish

        def leave_first(*batch: object) -> None:
            future.cancel()
            server.committer._finish = finish
            finish(*batch)

        server.committer._finish = leave_first
        for _ in range(200):
            await asyncio.sleep(0.01)
            if await database.value("SELECT grants = 1 AND state = 1 FROM steps"):
                break
        claimed = await server.do(ActivityClaim(MAIN, "main", "q", "w", None))
        assert (claimed.step.grants, claimed.step.attempt) == (2, 1)


async def test_a_whole_life(database_url: str) -> None:
    """Start, claim, pause, resume, return, end: the rows of each table agree at every turn, and nothing is left."""
    async with replica(database_url) as server, look(database_url) as database:
        started = await server.start(workflow_id="w")
        await server.do(PauseRun(ref(started), "look"))
        await database.check()
        assert await server.claim() == []
        await server.do(ResumeRun(ref(started), accept_order=False))
        (grant,) = await server.claim()
        await database.check()
        assert await server.do(ReturnTask(ref(started), 0, 1, server.session, counts=True, reason="lost")) is True
        (grant,) = await server.claim()
        with pytest.raises(errors.LeaseLost):
            await server.do(end_of(Grant(uuid4(), grant.run, None, None), COMPLETED))
        await server.do(signal(started))
        await server.do(end_of(grant, COMPLETED))
        await database.check()
        for table in ("runs", "steps", "tasks", "signals", "scopes", "mail"):
            assert await database.value(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - names from above
        with pytest.raises(errors.SignalRefused):
            await server.do(signal(started))
        assert not (await server.do(CancelRun(ref(started), ""))).accepted
