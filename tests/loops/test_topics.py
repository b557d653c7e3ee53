"""Topics over a real database: publishing, bringing events in slices, and what keeps order when all come at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.loops.rig import Rig, rigged, until

from stepwell_server import errors
from stepwell_server.engine.reported import NewTopicWait
from stepwell_server.engine.topic_waits import BringEvents
from stepwell_server.loops import topics as topics_loop
from stepwell_server.loops.pruner import Pruner
from stepwell_server.loops.timers import Timers
from stepwell_server.loops.topics import Topics
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.topics import TopicEvent, stripe_of
from stepwell_server.store import batches, topic_events
from stepwell_server.store.topic_events import NewEvent

RECEIVED = EventType.TOPIC_RECEIVED
PAID = NewTopicWait("paid")
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def publish(rig: Rig, text: str = "1", retain: float = 0.0, topic: str = "paid") -> int:
    new = NewEvent(1, "main", topic, Payload(1, text.encode()), retain)
    return (await topic_events.publish(rig.database, new, rig.clock.now(), 5.0, None)).number


def topics(rig: Rig) -> Topics:
    return Topics(rig.connection, rig.committers, rig.clock, 60.0)


async def brought(rig: Rig, loop: Topics | None = None) -> list[int]:
    """Runs the loop until nothing is on its way; answers how much each round did."""
    loop = loop or topics(rig)
    rounds = [await loop.run_once()]
    while loop.pause(rounds[-1]) == 0.0:
        rounds.append(await loop.run_once())
    return rounds


async def got(rig: Rig, key: int) -> list[str]:
    """What events a run's history holds, in its order."""
    query = "SELECT convert_from(payload, 'utf8') FROM events WHERE run_key = $1 AND type = $2 ORDER BY number"
    return [row[0] for row in await rig.sql.fetch(query, key, RECEIVED)]


async def kept(rig: Rig) -> list[str]:
    query = "SELECT convert_from(payload, 'utf8') FROM topic_events ORDER BY number"
    return [row[0] for row in await rig.sql.fetch(query)]


async def test_all_who_wait_get_an_event_in_slices(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction has more than a slice; who began later, or waits for another topic, gets nothing."""
    monkeypatch.setattr(topics_loop, "SLICE", 4)
    sizes: list[int] = []
    write = batches.write

    async def counted(connection: Any, batch: batches.Write) -> None:
        sizes.append(len(batch.topic_copies))
        await write(connection, batch)

    monkeypatch.setattr(batches, "write", counted)
    async with rigged(database_url) as rig:
        keys = [await rig.waiting_run(PAID) for _ in range(10)]
        other = await rig.waiting_run(NewTopicWait("other"))
        await publish(rig)
        late = await rig.waiting_run(PAID)
        assert await brought(rig) == [4, 4, 2]
        assert [await got(rig, key) for key in keys] == [["1"]] * 10
        assert [await got(rig, key) for key in (other, late)] == [[], []]
        assert await rig.sql.fetchval("SELECT count(*) FROM tasks WHERE run_key = ANY($1)", keys) == 10
        assert await rig.sql.fetchval("SELECT array_agg(run_key ORDER BY run_key) FROM topic_waits") == [other, late]
        assert await kept(rig) == []
    assert sum(sizes) == 10
    assert max(sizes) <= 4


async def test_what_was_begun_by_one_leader_is_ended_by_the_next(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start: whoever has had the event waits no more. Both at once do no harm either."""
    monkeypatch.setattr(topics_loop, "SLICE", 3)
    async with rigged(database_url) as one, rigged(database_url) as other:
        keys = [await one.waiting_run(PAID) for _ in range(10)]
        await publish(one)
        assert await topics(one).run_once() == 3
        await asyncio.gather(brought(one), brought(other))
        assert [await got(one, key) for key in keys] == [["1"]] * 10
        assert await kept(one) == []


async def test_events_come_in_the_order_of_their_publication(database_url: str) -> None:
    """A wait gets the first of those that are on their way; what is kept stays when all have had it."""
    async with rigged(database_url) as rig:
        key = await rig.waiting_run(PAID)
        for text in "123":
            await publish(rig, text, retain=0 if text == "2" else 60)
        assert await brought(rig) == [1]
        assert await got(rig, key) == ["1"]
        assert await kept(rig) == ["1", "3"]
        assert await rig.sql.fetchval("SELECT bool_and(is_delivered) FROM topic_events")
        assert await brought(rig) == [0]


async def test_a_later_wait_gets_what_is_kept_at_once(database_url: str) -> None:
    """Two waits of one progress get two; the third waits."""
    async with rigged(database_url) as rig:
        for text in "12":
            await publish(rig, text, retain=60)
        await publish(rig, "not kept")
        key = await rig.waiting_run(PAID, PAID, PAID)
        assert await got(rig, key) == ["1", "2"]
        await brought(rig)
        assert await got(rig, key) == ["1", "2"]
        number = await publish(rig, "4")
        await brought(rig)
        assert await got(rig, key) == ["1", "2", "4"]
        assert await rig.sql.fetchval("SELECT number FROM topic_positions WHERE chain_key = $1", key) == number - 2


async def test_a_wait_that_is_just_being_recorded_is_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked at the topic before the event was there: who brings the event lets its batch end first."""
    looked, go_on = asyncio.Event(), asyncio.Event()
    write = batches.write

    async def slow(connection: Any, batch: batches.Write) -> None:
        if any(side[1][0].__name__ == "TopicWait" for side in batch.sides):
            looked.set()
            await go_on.wait()
        await write(connection, batch)

    monkeypatch.setattr(batches, "write", slow)
    async with rigged(database_url) as rig:
        waiting = asyncio.create_task(rig.waiting_run(PAID))
        await looked.wait()
        await publish(rig, retain=60)
        bringing = asyncio.create_task(brought(rig))
        try:
            await until(lambda: rig.sql.fetchval(WAITING))
        finally:
            go_on.set()
        key = await waiting
        assert await bringing == [1]
        assert await got(rig, key) == ["1"]


async def test_a_wait_that_begins_while_somebody_looks_comes_again(database_url: str) -> None:
    """It is set aside, with all else of its run, until the look has begun."""
    async with rigged(database_url) as rig:
        session_id = await rig.open_session()
        await rig.start()
        grant = await rig.claim(session_id)
        async with rig.sql.transaction():
            await rig.sql.execute(
                "SELECT pg_advisory_xact_lock(hashtext('stepwell topics ' || current_schema()), $1)",
                stripe_of(1, "paid"),
            )
            waiting = asyncio.create_task(rig.progress(grant, PAID, resident=False))
            committer = rig.committers.members[0]
            await until(lambda: committer.waiting > 0)
            assert not waiting.done()
        assert await waiting == [1]


async def test_a_timeout_does_not_overtake_an_event_that_is_on_its_way(database_url: str) -> None:
    """What was published in time reaches the wait, though the leader comes to it late."""
    async with rigged(database_url) as rig:
        key = await rig.waiting_run(NewTopicWait("paid", timeout_seconds=0.0))
        other = await rig.waiting_run(NewTopicWait("other", timeout_seconds=0.0))
        await publish(rig)
        assert await Timers(rig.connection, rig.committers, rig.clock, 60.0).run_once() == 1
        assert await rig.events(other, EventType.WAIT_TIMED_OUT) == 1
        await brought(rig)
        assert await got(rig, key) == ["1"]


async def test_who_publishes_waits_for_who_came_first(database_url: str) -> None:
    """So that numbers are seen in their order: no later event is there before an earlier one."""
    async with rigged(database_url) as rig, rigged(database_url) as other:
        async with other.database.pool.begin() as connection:
            await connection.execute(topic_events.turn_of(1, "paid"))
            publishing = asyncio.create_task(publish(rig))
            await until(lambda: rig.sql.fetchval(WAITING))
            assert await publish(other, topic="other")
            assert not publishing.done()
        assert await publishing


async def test_an_event_brought_too_late_reaches_nobody(database_url: str) -> None:
    """A leader that slept brings what all have had: who waits since then does not get it."""
    async with rigged(database_url) as rig:
        had = await rig.waiting_run(PAID)
        events = (TopicEvent(await publish(rig), None),)
        await brought(rig)
        assert (await rig.claim(await rig.open_session())).run.run_key == had
        waits = await rig.waiting_run(PAID)
        assert await rig.committers.do(bool, BringEvents(RunRef(1, "main", had), "paid", events)) is False
        with pytest.raises(errors.RunBusy):
            await rig.committers.do(bool, BringEvents(RunRef(1, "main", waits), "paid", events))
        assert [await got(rig, key) for key in (had, waits)] == [["1"], []]


async def test_a_run_that_does_not_answer_holds_up_nobody(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others get the event, and what comes after it; the one gets it once it answers."""
    decide = BringEvents.decide
    async with rigged(database_url) as rig:
        keys = [await rig.waiting_run(PAID) for _ in range(3)]

        def faulty(self: BringEvents, change: Any) -> bool:
            if change.run_key == keys[1]:
                raise ValueError("a fault")
            return decide(self, change)

        monkeypatch.setattr(BringEvents, "decide", faulty)
        loop = topics(rig)
        await publish(rig, "1")
        await brought(rig, loop)
        assert [await got(rig, key) for key in keys] == [["1"], [], ["1"]]
        assert await kept(rig) == ["1"]
        monkeypatch.undo()
        await brought(rig)
        assert [await got(rig, key) for key in keys] == [["1"]] * 3
        assert await kept(rig) == []


async def test_a_large_event_goes_to_few_at_a_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics_loop, "_SLICE_BYTES", 2_000)
    async with rigged(database_url) as rig:
        keys = [await rig.waiting_run(PAID) for _ in range(5)]
        await publish(rig, f'"{"x" * 1_000}"')
        assert await brought(rig) == [1] * 5 + [0]
        assert all([await got(rig, key) for key in keys])


async def test_topics_take_turns(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with many who wait does not hold up one with few, nor do large events small ones."""
    monkeypatch.setattr(topics_loop, "SLICE", 2)
    monkeypatch.setattr(topics_loop, "_SLICE_BYTES", 1_500)
    async with rigged(database_url) as rig:
        many = [await rig.waiting_run(PAID) for _ in range(5)]
        few = [await rig.waiting_run(NewTopicWait(name)) for name in ("a", "b")]
        await publish(rig, f'"{"x" * 1_000}"')
        for name in ("a", "b"):
            await publish(rig, f'"{"y" * 1_000}"', topic=name)
        loop = topics(rig)
        for _ in range(3):
            await loop.run_once()
        assert all([await got(rig, key) for key in few])
        assert not all([await got(rig, key) for key in many])
        await brought(rig, loop)
        assert all([await got(rig, key) for key in many])


async def test_a_batch_that_stands_still_holds_up_only_what_is_new(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics_loop, "SLICE", 2)
    async with rigged(database_url, lock_seconds=0.2) as rig:
        keys = [await rig.waiting_run(PAID) for _ in range(5)]
        other = await rig.waiting_run(NewTopicWait("other"))
        loop = topics(rig)
        await publish(rig)
        assert await loop.run_once() == 2
        async with rig.sql.transaction():
            await rig.sql.execute(
                "SELECT pg_advisory_xact_lock_shared(hashtext('stepwell topics ' || current_schema()), $1)",
                stripe_of(1, "other"),
            )
            await publish(rig, topic="other")
            while await loop.run_once():
                pass
            assert all([await got(rig, key) for key in keys])
            assert await got(rig, other) == []
        await brought(rig, loop)
        assert await got(rig, other) == ["1"]


async def test_what_nobody_may_get_any_more_goes(database_url: str) -> None:
    """Events whose time is over once all have them; and with them who has had them."""
    async with rigged(database_url) as rig:
        for text, retain in (("short", 30), ("long", 600)):
            await publish(rig, text, retain)
        key = await rig.waiting_run(PAID)
        pruner = Pruner(rig.connection, _Later(rig.clock, 60), 60.0)
        assert await pruner.run_once() == 1
        assert await kept(rig) == ["short", "long"]
        await brought(rig)
        assert await pruner.run_once() == 1
        assert await kept(rig) == ["long"]
        assert await got(rig, key) == ["short"]


class _Later:
    """The clock, moved."""

    def __init__(self, clock: Any, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def monotonic(self) -> float:
        return float(self._clock.monotonic())

    def now(self) -> Any:
        return self._clock.now() + timedelta(seconds=self._seconds)
