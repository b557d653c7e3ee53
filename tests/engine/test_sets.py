"""Sets of writes: one transaction each, one after another over the same runs, whatever is cut or in their way."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.engine.proxy import Lose, proxy
from tests.engine.replica import Look, Replica, look, new_run, ref, replica
from tests.service import soon

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.committer import link
from stepwell_server.engine.committer.orders import Writes
from stepwell_server.engine.driven_events import AppendEvent
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.payloads import NULL
from stepwell_server.model.requests import Asked
from stepwell_server.model.runs import RunRef
from stepwell_server.store import batches
from stepwell_server.store.faults import Lost

SETS, RUNS = 40, 8


def append(started: Started, kind: str) -> AppendEvent:
    return AppendEvent(ref(started), kind, NULL, 0, 0)


def writes(*orders: Any) -> Writes:
    return Writes(orders, tuple(f"writes[{place}]" for place in range(len(orders))))


def marks(runs: Any, kind: str) -> Writes:
    """One event of that type in each of the runs."""
    return writes(*(append(started, kind) for started in runs))


async def events(database: Look) -> dict[int, list[str]]:
    """The callers' events of each run, in their order."""
    found: dict[int, list[str]] = defaultdict(list)
    query = "SELECT run_key, caller_type AS label FROM events WHERE caller_type IS NOT NULL ORDER BY run_key, number"
    for row in await database.rows(query):
        found[row["run_key"]].append(row["label"])
    return found


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_a_set_whose_commit_is_cut_is_there_as_a_whole_once(database_url: str, lose: Lose) -> None:
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        runs = [await server.start() for _ in range(3)]
        order = writes(*(append(started, "e") for started in runs), StartRun(new_run()), TerminateRun(ref(runs[0]), ""))
        way.lose = lose
        answers = await asyncio.wait_for(server.committers.commit(order), 60)
        assert len(answers) == 5
        assert way.lost == 1
        assert sorted((await events(database)).values()) == [["e"]] * 3
        assert await database.value("SELECT count(*) FROM run_ids") == 4
        assert await database.value("SELECT count(*) FROM closed_runs") == 1
        await database.check()


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_a_set_of_unknown_outcome_is_repeated_by_its_id(
    database_url: str, lose: Lose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller hears that it is unknown; the repeat finds it, or does it."""

    async def never(*_: object) -> bool:
        raise Lost("nobody there")

    monkeypatch.setattr(batches, "settle", never)
    monkeypatch.setattr(link, "SETTLE_SECONDS", 0.3)
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        runs = [await server.start() for _ in range(3)]
        asked = Asked("r", 1, "Commit", b"h", tuple[Any, Any, Any])
        way.lose = lose
        with pytest.raises(errors.OutcomeUnknown):
            await server.committers.commit(marks(runs, "e"), asked=asked)
        assert len(await asyncio.wait_for(server.committers.commit(marks(runs, "e"), asked=asked), 60)) == 3
        assert sorted((await events(database)).values()) == [["e"]] * 3
        await database.check()


async def test_sets_in_opposite_orders_follow_one_another(database_url: str) -> None:
    """On two replicas, again and again: each is done, and none is seen in halves."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        runs = [await one.start() for _ in range(4)]
        began = time.monotonic()
        async with asyncio.timeout(60):
            for turn in range(25):
                there, back = marks(runs, f"a{turn}"), marks(reversed(runs), f"b{turn}")
                await asyncio.gather(one.committers.commit(there), two.committers.commit(back))
        assert time.monotonic() - began < 60
        orders = list((await events(database)).values())
        assert len(orders) == 4
        assert all(order == orders[0] for order in orders)
        assert len(orders[0]) == 50


@pytest.mark.parametrize("seed", range(4))
async def test_concurrent_sets_equal_some_serial_order(database_url: str, seed: int) -> None:
    """Over overlapping runs, on two replicas, with single commands in between and sets that are refused."""
    draw = random.Random(seed)
    async with (
        replica(database_url, committers=2) as one,
        replica(database_url) as two,
        look(database_url) as database,
    ):
        runs = [await one.start() for _ in range(RUNS)]
        ended = await one.start()
        await one.do(TerminateRun(ref(ended), ""))

        async def give(server: Replica, number: int) -> set[int]:
            """The runs that a set wrote to."""
            chosen = draw.sample(runs, draw.randint(1, 5))
            is_bad = draw.random() < 0.2
            await asyncio.sleep(draw.random() * 0.2)
            order = marks([*chosen, ended] if is_bad else chosen, f"s{number}")
            if is_bad:
                with pytest.raises(errors.RunTerminal) as caught:
                    await server.committers.commit(order)
                assert caught.value.at == f"writes[{len(chosen)}]"
                return set()
            await server.committers.commit(order)
            return {started.run_key for started in chosen}

        sets = [give(draw.choice([one, two]), number) for number in range(SETS)]
        singles = [draw.choice([one, two]).do(append(draw.choice(runs), f"x{number}")) for number in range(SETS)]
        results = await asyncio.gather(*sets, *singles)
        found = await events(database)
        for number, keys in enumerate(results[:SETS]):
            assert {key for key, labels in found.items() if f"s{number}" in labels} == keys
        # In each run they stand in an order; together these are orders of one whole.
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for labels in found.values():
            assert len(labels) == len(set(labels))
            for before, after in pairwise(labels):
                sorter.add(after, before)
        sorter.prepare()
        await database.check()


async def test_a_set_gets_its_turn_at_a_run_that_is_never_idle(database_url: str) -> None:
    """It waits for the lock, and the single commands that come after it wait aside."""
    async with replica(database_url) as one, replica(database_url) as two:
        runs = [await one.start() for _ in range(4)]
        busy = True

        async def hammer(started: Started) -> None:
            while busy:
                await one.do(append(started, "x"))

        hammering = [asyncio.create_task(hammer(started)) for started in runs]
        try:
            async with asyncio.timeout(60):
                for turn in range(10):
                    await two.committers.commit(marks(runs, f"s{turn}"))
        finally:
            busy = False
            await asyncio.gather(*hammering)


async def test_what_holds_up_one_set_holds_up_no_other(database_url: str) -> None:
    """A run is locked by somebody who stands still: the set that wants it hears so when its time is over."""
    async with (
        replica(database_url, lock_seconds=0.1) as server,
        look(database_url) as database,
        look(database_url) as still,
    ):
        runs = [await server.start() for _ in range(3)]
        async with still.raw.transaction():
            await still.raw.execute("SELECT FROM runs WHERE run_key = $1 FOR UPDATE", runs[0].run_key)
            held_up = asyncio.ensure_future(server.committers.commit(marks(runs, "late"), seconds=1.5))
            await asyncio.sleep(0)
            for turn in range(3):
                await server.committers.commit(marks(runs[1:], f"s{turn}"))
            assert not held_up.done()
            with pytest.raises(errors.WritesBusy):
                await held_up
        assert sorted((await events(database)).values()) == [["s0", "s1", "s2"]] * 2
        await server.committers.commit(marks(runs, "free"))
        assert len(await events(database)) == 3


async def test_a_set_that_touches_too_many_runs_is_refused(database_url: str) -> None:
    limits = {"set_runs": 3}
    async with replica(database_url, limits=limits) as server, look(database_url) as database:
        runs = [await server.start() for _ in range(4)]
        with pytest.raises(errors.LimitExceeded):
            await server.committers.commit(marks(runs, "e"))
        await server.committers.commit(marks(runs[:3], "e"))
        assert len(await events(database)) == 3


async def test_runs_that_a_set_starts_are_spread_and_given_to_workers(database_url: str) -> None:
    """Whoever waits for a task gets it at once, and places are kept in step with what was refused."""
    async with replica(database_url, committers=3) as server, look(database_url) as database:
        server.ears.session = uuid4()
        ended = await server.start()
        await server.do(TerminateRun(ref(ended), ""))
        taken = server.ears.taken
        starts = [StartRun(new_run()) for _ in range(9)]
        with pytest.raises(errors.RunTerminal):
            await server.committers.commit(writes(*starts, append(ended, "e")))
        assert server.ears.taken == taken
        answers: Any = await server.committers.commit(writes(*starts))
        assert server.ears.taken == taken + 9
        assert {answer.run_key % 3 for answer in answers} == {0, 1, 2}
        assert await database.value("SELECT count(*) FROM runs WHERE session_id IS NOT NULL") == 9
        await database.check()


class Wanting(msgspec.Struct, frozen=True):
    """A command that wants to see more than it said at first, and notes when it is decided."""

    ref: RunRef
    name: str
    decided: list[str]

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> str:
        change.step(1)
        self.decided.append(self.name)
        return self.name


async def test_a_write_that_wants_more_holds_up_all_later_ones(database_url: str) -> None:
    """Not only those of its run: what it does may matter for them."""
    async with replica(database_url) as server:
        runs = [await server.start() for _ in range(2)]
        decided: list[str] = []
        order = writes(
            append(runs[0], "e"), Wanting(ref(runs[0]), "first", decided), Noting(ref(runs[1]), "second", decided)
        )
        await server.committers.commit(order)
        assert decided == ["first", "second"]


class Noting(Wanting, frozen=True):
    """One that wants nothing."""

    def decide(self, change: Change) -> str:
        self.decided.append(self.name)
        return self.name


async def test_a_set_waits_for_a_run_that_is_locked(database_url: str) -> None:
    """In the database, so that it comes next whoever else asks again and again."""
    async with (
        replica(database_url, lock_seconds=20) as server,
        look(database_url) as database,
        look(database_url) as still,
    ):
        started = await server.start()
        transaction = still.raw.transaction()
        await transaction.start()
        await still.raw.execute("SELECT FROM runs WHERE run_key = $1 FOR UPDATE", started.run_key)
        waiting = asyncio.ensure_future(server.committers.commit(marks([started], "e")))
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        await soon(lambda: database.value(query))
        assert not waiting.done()
        await transaction.rollback()
        await waiting


async def test_mail_of_a_set_is_brought_at_once(database_url: str) -> None:
    """By the committers of those whom it is for, though no leader looks for it."""
    async with replica(database_url, committers=2) as server, look(database_url) as database:
        parent = await server.start()
        child = StartRun(new_run(parent_key=parent.run_key, parent_ordinal=1))
        answers: Any = await server.committers.commit(writes(child))
        await server.committers.commit(writes(TerminateRun(ref(answers[0]), "")))
        await soon(lambda: database.value("SELECT count(*) = 0 FROM mail"))
        posted = "SELECT count(*) FROM closed_runs WHERE parent_key IS NOT NULL"
        assert await database.value(posted) == 1
