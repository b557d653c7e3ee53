"""Each duty alone: a round is called, and what came of it is looked at."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.loops.rig import Rig, job_timers, rig_settings, rigged, until

from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.committer.orders import Order
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.engine.reported import End, NewTimer, ScopeClaim
from stepwell_server.ids import uuid7
from stepwell_server.loops.deadlines import Deadlines
from stepwell_server.loops.expiry import Expiry
from stepwell_server.loops.mail import MailDelivery
from stepwell_server.loops.partitions import Partitions
from stepwell_server.loops.timers import Alarms, Timers
from stepwell_server.model.events import EventType
from stepwell_server.model.mail import Letter, Subject, pack_letter
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.tasks import TaskKind
from stepwell_server.model.workers import Hello
from stepwell_server.service import Service
from stepwell_server.store import recall, sessions
from stepwell_server.store.faults import Conflict
from stepwell_server.store.partitions import TABLES
from stepwell_server.store.timers import Due


def timers(rig: Rig, seconds: float = 60.0) -> Timers:
    return Timers(rig.connection, rig.committers, rig.clock, seconds)


def expiry(rig: Rig, led_seconds: float = 1000.0) -> Expiry:
    settings = rig.settings
    return Expiry(
        rig.connection,
        rig.committers,
        rig.clock,
        settings.expiry_poll_seconds,
        settings.session_seconds,
        lambda: led_seconds,
    )


async def past_due(rig: Rig, table: str) -> None:
    await rig.sql.execute(
        f"UPDATE {table} SET wake_time = $1",  # noqa: S608 - ours
        rig.clock.now() - timedelta(seconds=5),
    )


# --- timers and deadlines -------------------------------------------------------------------------------------------


async def test_a_timer_fires_once_with_two_leaders(database_url: str) -> None:
    async with rigged(database_url) as one, rigged(database_url) as other:
        keys = [await one.waiting_run(NewTimer(3600)) for _ in range(20)]
        assert await timers(one).run_once() == 0
        await past_due(one, "steps")
        fired = await asyncio.gather(timers(one).run_once(), timers(other).run_once())
        assert sum(fired) == 20
        assert [await one.events(key, EventType.TIMER_FIRED) for key in keys] == [1] * 20
        assert await one.sql.fetchval("SELECT count(*) FROM tasks WHERE ordinal = 0") == 20


class Stuck(Timers):
    """Nothing comes of some steps, whatever the reason."""

    stuck: tuple[int, ...] = ()

    def order(self, due: Due) -> Order:
        return super().order(due._replace(ordinal=99) if due.run_key in self.stuck else due)


async def test_what_nobody_can_fire_does_not_hide_the_rest(database_url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("stepwell_server.loops.timers.SLICE", 2)
    async with rigged(database_url) as rig:
        keys = [await rig.waiting_run(NewTimer(3600)) for _ in range(5)]
        await past_due(rig, "steps")
        loop = Stuck(rig.connection, rig.committers, rig.clock, 60.0)
        loop.stuck = tuple(keys[:3])
        for _ in range(4):
            await loop.run_once()
        assert [await rig.events(key, EventType.TIMER_FIRED) for key in keys] == [0, 0, 0, 1, 1]


async def test_a_timer_is_not_late_by_a_poll(database_url: str) -> None:
    """What this replica commits nudges its timers, though they would look again in a minute only."""
    async with rigged(database_url) as rig:
        loop = timers(rig)
        deadlines = Deadlines(rig.connection, rig.committers, rig.clock, 60.0)
        alarms = Alarms(loop, deadlines, job_timers(rig), lambda: True, lambda *_: None)
        for member in rig.committers.members:
            member._listener = alarms
        loop.start()
        key = await rig.waiting_run(NewTimer(0.2))
        await until(lambda: fired(rig, key))
        await loop.stop()


async def test_a_timer_of_another_replica_is_not_late_either(database_url: str) -> None:
    """The replica that commits it is not the leader, and tells the leader."""
    async with rigged(database_url) as rig:
        leading = timers(rig)
        deadlines = Deadlines(rig.connection, rig.committers, rig.clock, 60.0)
        here = Alarms(leading, deadlines, job_timers(rig), lambda: True, lambda *_: None)
        there = Alarms(leading, deadlines, job_timers(rig), lambda: False, here.hinted)
        for member in rig.committers.members:
            member._listener = there
        leading.start()
        key = await rig.waiting_run(NewTimer(0.2))
        await until(lambda: fired(rig, key))
        await leading.stop()


async def fired(rig: Rig, key: int) -> bool:
    return await rig.events(key, EventType.TIMER_FIRED) == 1


async def test_a_timer_known_to_the_database_only_is_not_late_either(database_url: str) -> None:
    async with rigged(database_url) as rig:
        key = await rig.waiting_run(NewTimer(0.5))
        loop = timers(rig)
        loop.start()
        await until(lambda: fired(rig, key))
        await loop.stop()


async def test_deadlines_pass(database_url: str) -> None:
    async with rigged(database_url) as rig:
        key = await rig.start(timeout_seconds=3600)
        other = await rig.start(timeout_seconds=3600)
        await rig.sql.execute(
            "UPDATE runs SET wake_time = $2, deadline = $2 WHERE run_key = $1",
            key,
            rig.clock.now() - timedelta(seconds=1),
        )
        loop = Deadlines(rig.connection, rig.committers, rig.clock, 60.0)
        assert await loop.run_once() == 1
        assert await rig.sql.fetchval("SELECT phase FROM closed_runs WHERE run_key = $1", key) == Phase.TIMED_OUT
        assert await rig.sql.fetchval("SELECT count(*) FROM runs WHERE run_key = $1", other) == 1


# --- sessions ---------------------------------------------------------------------------------------------------------


async def holding(rig: Rig, seconds: float) -> tuple[Any, int, int]:
    """A session that holds a run and an activity of it."""
    session_id = await rig.open_session(30)
    key = await rig.start()
    (ordinal,) = await rig.progress(await rig.claim(session_id), NewActivity("act"))
    await rig.claim(session_id, TaskKind.ACTIVITY, "act")
    await rig.sql.execute(
        "UPDATE sessions SET expire_time = $2 WHERE session_id = $1",
        session_id,
        rig.clock.now() + timedelta(seconds=seconds),
    )
    return session_id, key, ordinal


async def held_by(rig: Rig, session_id: Any) -> int:
    count: int = await rig.sql.fetchval(
        "SELECT (SELECT count(*) FROM runs WHERE session_id = $1) + (SELECT count(*) FROM steps WHERE session_id = $1)",
        session_id,
    )
    return count


async def test_the_leases_of_an_expired_session_return(database_url: str) -> None:
    async with rigged(database_url) as rig:
        expired, key, ordinal = await holding(rig, -1)
        alive, *_ = await holding(rig, 10)
        loop = expiry(rig)
        assert await loop.run_once() == 3
        assert (await held_by(rig, expired), await held_by(rig, alive)) == (0, 2)
        assert await rig.sql.fetchval("SELECT array_agg(session_id) FROM sessions") == [alive]
        waiting = await rig.sql.fetch("SELECT ordinal FROM tasks WHERE run_key = $1 ORDER BY ordinal", key)
        assert [row[0] for row in waiting] == [0, ordinal]
        assert await rig.events(key, EventType.RUN_INTERRUPTED) == 1
        assert await rig.events(key, EventType.ACTIVITY_INTERRUPTED) == 1
        assert await loop.run_once() == 0


async def test_nothing_expires_soon_after_an_election(database_url: str) -> None:
    async with rigged(database_url) as rig:
        session_id, *_ = await holding(rig, -1)
        assert await expiry(rig, led_seconds=rig.settings.session_seconds - 1).run_once() == 0
        assert await held_by(rig, session_id) == 2


async def test_a_session_prolonged_meanwhile_is_left_alone(database_url: str) -> None:
    """And one whose expiry is final can't be prolonged."""
    async with rigged(database_url) as rig:
        session_id, *_ = await holding(rig, -1)
        async with rig.connection.use() as connection:
            now = rig.clock.now()
            assert await sessions.read_expired_sessions(connection, now, 10) == [session_id]
            await connection.fetch(sessions.SESSIONS["extend_sessions"], [session_id], now + timedelta(seconds=30))
            assert await sessions.condemn_sessions(connection, [session_id], now) == []
            assert await sessions.delete_condemned_sessions(connection, [session_id]) == 0
            late = now + timedelta(seconds=31)
            assert await sessions.condemn_sessions(connection, [session_id], late) == [session_id]
            extend = sessions.SESSIONS["extend_sessions"]
            assert await connection.fetch(extend, [session_id], late + timedelta(seconds=30)) == []


async def test_a_late_session_is_resumed_until_it_is_condemned(database_url: str) -> None:
    """In its own namespace: who was held up together with its replica has lost nothing yet."""
    async with rigged(database_url) as rig:
        session_id = await rig.open_session(-1)
        async with rig.connection.use() as connection:
            now, told = rig.clock.now(), Hello(worker_id="worker")
            later = now + timedelta(seconds=30)
            assert not await recall.resume_session(connection, session_id, 2, told, later)
            assert await recall.resume_session(connection, session_id, 1, told, later)
            assert await sessions.condemn_sessions(connection, [session_id], now) == []
            later += timedelta(seconds=1)
            assert await sessions.condemn_sessions(connection, [session_id], later) == [session_id]
            assert not await recall.resume_session(connection, session_id, 1, told, later + timedelta(seconds=30))


async def test_nothing_expires_soon_after_a_round_that_failed(database_url: str) -> None:
    """What held the round up, such as a lock, may have kept beats from being written."""
    async with rigged(database_url, session_seconds=0.5, heartbeat_seconds=0.1, ack_seconds=0.1) as rig:
        await rig.open_session(-1)
        loop = expiry(rig)
        holder = await asyncpg.connect(database_url)
        async with holder.transaction():
            await holder.execute("LOCK TABLE stepwell.sessions")
            with pytest.raises(Conflict):
                await loop.run_once()
        await holder.close()
        began = rig.clock.monotonic()
        assert await loop.run_once() == 0
        await until(loop.run_once)
        assert rig.clock.monotonic() - began > 0.4


@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE"])
async def test_nothing_expires_soon_after_a_round_that_was_held_up(database_url: str, mode: str) -> None:
    """The lock goes while a round waits for it: beats have waited as long, and come a moment later."""
    async with rigged(database_url, session_seconds=1.0, heartbeat_seconds=0.1, ack_seconds=0.1) as rig:
        await rig.open_session(-1)
        loop = expiry(rig)
        holder = await asyncpg.connect(database_url)
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE stepwell.sessions IN {mode} MODE")
            round_ = asyncio.create_task(loop.run_once())
            await until(lambda: holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            began = rig.clock.monotonic()
            await until(lambda: rig.clock.monotonic() - began > rig.settings.session_seconds / 8)
        await holder.close()
        assert await round_ == 0
        began = rig.clock.monotonic()
        await until(loop.run_once)
        assert rig.clock.monotonic() - began > 0.9


async def test_nothing_expires_soon_after_the_leader_stood_still(database_url: str) -> None:
    """Whoever beats by way of its replica stood still with it."""
    async with rigged(database_url) as rig:
        loop, seconds = expiry(rig), rig.settings.session_seconds
        assert await loop.run_once() == 0
        session_id, *_ = await holding(rig, -1)
        loop._looked_time -= seconds / 4
        assert await loop.run_once() == 0
        assert await held_by(rig, session_id) == 2
        loop._held_up_time -= seconds
        assert await loop.run_once() == 3


async def test_nothing_expires_soon_after_the_clock_was_set_forward(database_url: str) -> None:
    """Whoever was prolonged before was so by the clock as it was; other replicas follow it a little later."""
    async with rigged(database_url) as rig:
        loop, seconds = expiry(rig), rig.settings.session_seconds
        assert await loop.run_once() == 0
        session_id, *_ = await holding(rig, 10)
        rig.clock.align(rig.clock.now() + timedelta(hours=1), 0.0)
        assert await loop.run_once() == 0
        loop._held_up_time -= 1.9 * seconds
        assert await loop.run_once() == 0
        assert await held_by(rig, session_id) == 2
        loop._held_up_time -= 0.2 * seconds
        assert await loop.run_once() == 3


async def test_what_held_the_leader_up_excuses_heartbeats_elsewhere(database_url: str) -> None:
    """It has no worker of its own, so no beats of its own have failed."""
    async with Service(rig_settings(database_url, lock_seconds=0.2, expiry_poll_seconds=0.05)) as service:
        await until(service.leader.is_leading)
        before = service.clock.now()
        holder = await asyncpg.connect(database_url)
        async with holder.transaction():
            await holder.execute("LOCK TABLE stepwell.heartbeats IN SHARE MODE")
            await until(lambda: math.isfinite(service.duties.expiry.calm_seconds()))
        await holder.close()
        for firing in (service.duties.timers, service.duties.job_timers):
            since = firing.heard_since()
            assert since is not None
            assert before < since <= service.clock.now()


async def test_what_holds_a_table_up_is_seen_before_anybody_may_be_judged(database_url: str) -> None:
    async with rigged(database_url, session_seconds=0.5, heartbeat_seconds=0.1, ack_seconds=0.1) as rig:
        holder = await asyncpg.connect(database_url)
        async with holder.transaction():
            await holder.execute("LOCK TABLE stepwell.sessions")
            with pytest.raises(Conflict):
                await expiry(rig, led_seconds=0.0).run_once()
        await holder.close()


async def test_two_leaders_expire_once(database_url: str) -> None:
    async with rigged(database_url) as one, rigged(database_url) as other:
        held = [await holding(one, -1) for _ in range(5)]
        await asyncio.gather(expiry(one).run_once(), expiry(other).run_once())
        for session_id, key, _ in held:
            assert await held_by(one, session_id) == 0
            assert await one.events(key, EventType.ACTIVITY_INTERRUPTED) == 1


async def test_a_grant_that_overtook_the_expiry_returns(database_url: str) -> None:
    async with rigged(database_url) as rig:
        session_id, *_ = await holding(rig, 30)
        await rig.sql.execute("DELETE FROM sessions")
        alive, *_ = await holding(rig, 30)
        assert await expiry(rig).run_once() == 2
        assert (await held_by(rig, session_id), await held_by(rig, alive)) == (0, 2)


async def test_more_leases_than_a_slice(database_url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("stepwell_server.loops.expiry.SLICE", 2)
    async with rigged(database_url) as rig:
        session_id = await rig.open_session()
        for _ in range(5):
            await rig.start()
            await rig.claim(session_id)
        await rig.sql.execute("UPDATE sessions SET expire_time = $1", rig.clock.now() - timedelta(seconds=1))
        loop = expiry(rig)
        for _ in range(4):
            await loop.run_once()
        assert await held_by(rig, session_id) == 0
        assert await rig.sql.fetchval("SELECT count(*) FROM sessions") == 0


# --- mail ------------------------------------------------------------------------------------------------------------


async def post(rig: Rig, key: int, seconds_ago: float) -> None:
    body = pack_letter(Letter(Subject.CANCEL, reason="parent ended"))
    posted = rig.clock.now() - timedelta(seconds=seconds_ago)
    await rig.sql.execute("INSERT INTO mail VALUES ($1, $2, $3, $4)", uuid7(), key, posted, body)


def delivery(rig: Rig) -> MailDelivery:
    return MailDelivery(rig.connection, rig.committers, rig.clock, rig.settings.mail_poll_seconds)


async def test_mail_of_a_dead_replica_is_delivered(database_url: str) -> None:
    async with rigged(database_url) as rig:
        key, young = await rig.start(), await rig.start()
        await post(rig, key, 5)
        await post(rig, young, 0)
        assert await delivery(rig).run_once() == 1
        assert await rig.sql.fetchval("SELECT phase FROM closed_runs WHERE run_key = $1", key) == Phase.CANCELLED
        assert await rig.sql.fetchval("SELECT array_agg(run_key) FROM mail") == [young]


async def test_mail_to_nobody_goes(database_url: str) -> None:
    async with rigged(database_url) as rig:
        await post(rig, 123_456, 5)
        assert await delivery(rig).run_once() == 1
        assert await rig.sql.fetchval("SELECT count(*) FROM mail") == 0


async def test_two_deliveries_are_one(database_url: str) -> None:
    async with rigged(database_url) as one, rigged(database_url) as other:
        keys = [await one.start() for _ in range(10)]
        for key in keys:
            await post(one, key, 5)
        await asyncio.gather(delivery(one).run_once(), delivery(other).run_once())
        assert await one.sql.fetchval("SELECT count(*) FROM mail") == 0
        assert [await one.events(key, EventType.RUN_CANCEL_REQUESTED) for key in keys] == [1] * 10


# --- partitions -----------------------------------------------------------------------------------------------------


async def partition_of(rig: Rig, table: str, key: int) -> str:
    found = f"SELECT tableoid::regclass::text FROM {table} WHERE run_key = $1 LIMIT 1"  # noqa: S608 - ours
    name: str = await rig.sql.fetchval(found, key)
    return name


async def test_partitions_are_made_ahead_and_used(database_url: str) -> None:
    async with rigged(database_url) as rig:
        loop = Partitions(rig.connection, 60.0)
        assert await loop.run_once() == len(TABLES)
        assert await loop.run_once() == 0
        await rig.sql.execute("SELECT setval('run_key_blocks', 15000)")
        assert await loop.run_once() == len(TABLES)
    async with rigged(database_url) as rig:
        key = await rig.waiting_run(NewTimer(1))
        assert key > 15_000_000
        await past_due(rig, "steps")
        assert await timers(rig).run_once() == 1
        session_id = await rig.open_session()
        await end(rig, await rig.claim(session_id))
        tables = [await partition_of(rig, table, key) for table in ("closed_runs", "closed_steps", "events")]
        assert tables == ["closed_runs_p2", "closed_steps_p2", "events_p2"]
        indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = $1"
        assert await rig.sql.fetchval(indexes, "closed_runs_p2") == await rig.sql.fetchval(indexes, "closed_runs_p1")


async def end(rig: Rig, grant: Any) -> None:
    run = grant.run
    order = ProgressRun(
        RunRef(1, "main", run.run_key),
        grant.session_id,
        run.grants,
        [ScopeClaim("", run.order_count, run.order_hash, closed=False)],
        [],
        [],
        False,
        End(Phase.COMPLETED, NULL),
        False,
    )
    await rig.committers.do(ProgressAnswer, order)


async def test_a_partition_waits_for_nobody_long(database_url: str) -> None:
    """Somebody reads the default partition in a long transaction: it is tried again, and nobody queues behind it."""
    async with rigged(database_url) as rig:
        loop = Partitions(rig.connection, 60.0)
        async with rig.sql.transaction():
            await rig.sql.execute("LOCK TABLE events_rest IN ACCESS SHARE MODE")
            assert await loop.run_once() == len(TABLES) - 1
            assert loop.pause(2) < 5
        assert await loop.run_once() == 1


async def test_rows_in_the_default_partition_stay_there(database_url: str) -> None:
    async with rigged(database_url) as rig:
        await rig.sql.execute("SELECT setval('run_key_blocks', 15000)")
    async with rigged(database_url) as rig:
        await rig.start()
        loop = Partitions(rig.connection, 60.0)
        assert await loop.run_once() == 2 * len(TABLES) - 1
        assert await loop.run_once() == 0
