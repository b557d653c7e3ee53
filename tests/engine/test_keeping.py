"""Kept runs: they spare reads and locks, and however old they are, no decision is wrong for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from tests.engine.code import Code
from tests.engine.replica import Replica, look, new_run, ref, replica
from tests.engine.test_costs import asked, ended
from tests.engine.test_costs import ref as ref_of
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import CompleteActivity, Outcome
from stepwell_server.engine.committer import keeping
from stepwell_server.engine.committer.protocols import NoCapacity
from stepwell_server.engine.grants import GrantTask, ReturnTask
from stepwell_server.engine.reported import NewStep, NewTimer, NewUserTask, NewWait
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import Kind
from stepwell_server.store.connection import Connection


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What connections read, by the names of the statements."""
    counts: Counter[str] = Counter()
    fetch = Connection.fetch

    async def counting(connection: Connection, statement: Any, *arguments: Any) -> Any:
        counts[statement.name] += 1
        return await fetch(connection, statement, *arguments)

    monkeypatch.setattr(Connection, "fetch", counting)
    return counts


async def _held(server: Replica, count: int = 1) -> list[int]:
    """Runs that a worker of this replica holds, each with an activity that it performs."""
    server.ears.session = server.session
    started = await asyncio.gather(*(server.submit(StartRun(new_run())) for _ in range(count)))
    keys = [answer.run_key for answer in started if isinstance(answer, Started)]
    await asyncio.gather(*(server.submit(asked(server, key)) for key in keys))
    return keys


def _completed(server: Replica, key: int, token: int = 1, session: UUID | None = None) -> CompleteActivity:
    return CompleteActivity(ref_of(key), 1, session or server.session, token, NULL)


async def _each(server: Replica, orders: Iterable[Any]) -> list[Any]:
    return await asyncio.gather(*(server.submit(order) for order in orders))


async def _phase(database: Any, key: int) -> int | None:
    phase: int | None = await database.value("SELECT phase FROM closed_runs WHERE run_key = $1", key)
    return phase


async def test_who_holds_a_run_here_needs_no_look_at_it(database_url: str, fetched: Counter[str]) -> None:
    """From the second command to the last nothing is read or locked."""
    async with replica(database_url) as server, look(database_url) as database:
        (key,) = await _held(server)
        await server.do(_completed(server, key))
        await server.do(ended(server, key))
        assert not fetched.keys() & {"lock_runs", "read_steps"}
        assert await _phase(database, key) == Phase.COMPLETED
        await database.check()


async def test_who_is_held_elsewhere_is_not_kept(database_url: str, fetched: Counter[str]) -> None:
    """What this replica changed of it would be old before it came here again."""
    async with replica(database_url) as server:
        (key,) = await _held(server)
        server.ears.session = None
        await server.do(_completed(server, key))
        await server.do(ended(server, key))
        assert fetched["lock_runs"] == 1


@pytest.mark.parametrize("count", [1, 20])
async def test_what_another_replica_changed_is_decided_anew(
    database_url: str, fetched: Counter[str], count: int
) -> None:
    """Few rows go as one statement, many by several: both write nothing over what they did not see."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        keys = await _held(one, count)
        # The workers' reports take another way for a while.
        await _each(two, (_completed(one, key) for key in keys))
        answers = await _each(one, (ended(one, key) for key in keys))
        assert not any(answer.duplicate for answer in answers)
        assert [await _phase(database, key) for key in keys] == [Phase.COMPLETED] * count
        assert fetched["lock_runs"] >= 2
        await database.check()


@pytest.mark.parametrize("ends", [True, False])
async def test_a_change_that_history_does_not_tell_is_noticed(
    database_url: str, fetched: Counter[str], monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    """Another replica gave the activity to a worker of its own: no event, no row that would be there twice."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        one.ears.session = one.session
        started = await one.start()
        one.ears.session = None  # nobody is free for the activity
        monkeypatch.setattr(one.ears, "is_here", lambda session_id: session_id == one.session)
        await one.do(asked(one, started.run_key))
        events = await database.value("SELECT count(*) FROM events")
        assert await two.do(GrantTask(ref(started), 1, uuid4(), "other")) is not None
        assert await database.value("SELECT count(*) FROM events") == events
        order = ended(one, started.run_key)
        await one.do(order if ends else replace(order, end=None, cancels=[1]))
        assert fetched["lock_runs"] == 2  # for the other, and to decide anew
        await database.check()


async def test_the_same_step_of_two_replicas_is_recorded_once(database_url: str) -> None:
    """A row that is there already is not the caller's fault: what was kept is old."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        one.ears.session = one.session
        started = await asyncio.gather(*(one.submit(StartRun(new_run())) for _ in range(20)))
        keys = [answer.run_key for answer in started if isinstance(answer, Started)]
        told = await _each(two, (asked(one, key) for key in keys))
        again = await _each(one, (asked(one, key) for key in keys))
        assert {answer.duplicate for answer in told} == {False}
        assert {answer.duplicate for answer in again} == {True}
        assert await database.value("SELECT count(*) FROM steps") == 20
        await database.check()


async def test_a_refusal_is_true_however_old_what_is_kept(database_url: str) -> None:
    """The activity came back and was given to another worker, on another replica: here it is that worker's."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        (key,) = await _held(one)
        other = uuid4()
        assert await two.do(ReturnTask(ref_of(key), 1, 1, one.session, counts=False, reason="it left"))
        await two.do(GrantTask(ref_of(key), 1, other, "other"))
        assert (await one.do(_completed(one, key, 2, other))).duplicate is False
        with pytest.raises(errors.LeaseLost):
            await one.do(_completed(one, key))
        await database.check()


async def test_a_run_that_is_locked_elsewhere_waits_aside(database_url: str) -> None:
    """As without keeping: the others of its batch go on meanwhile."""
    async with replica(database_url, lock_seconds=0.05) as server, look(database_url) as other:
        first, second = await _held(server, 2)
        async with other.raw.transaction():
            await other.raw.execute("SELECT * FROM runs WHERE run_key = $1 FOR UPDATE", first)
            waiting, free = server.submit(_completed(server, first)), server.submit(_completed(server, second))
            await asyncio.wait_for(free, 10)
            assert not waiting.done()
        assert await waiting == Outcome(duplicate=False)
        await other.check()


async def test_a_new_connection_begins_with_nothing(database_url: str, fetched: Counter[str]) -> None:
    """It may lead to another server, which was promoted and lacks the last of what was committed."""
    async with replica(database_url) as server, look(database_url) as database:
        (key,) = await _held(server)
        await database.raw.execute("SELECT pg_terminate_backend($1)", await _backend(server))
        await server.do(_completed(server, key))
        assert fetched["lock_runs"] == 1


async def _backend(server: Replica) -> int:
    connection = await server.committer._link.connected()
    return int(connection.raw.get_server_pid())


async def test_a_start_and_its_end_leave_nothing(database_url: str) -> None:
    """A run that has ended is forgotten."""
    async with replica(database_url) as server:
        (key,) = await _held(server)
        kept = server.committer._keeping._runs
        assert list(kept) == [key]
        await server.do(_completed(server, key))
        await server.do(ended(server, key))
        assert not kept
        started = await server.start()
        assert list(kept) == [ref(started).run_key]


class _Here(NoCapacity):
    def is_here(self, session_id: UUID) -> bool:
        return True


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In runs, of which the one that was changed longest ago goes, and in steps of each."""
    monkeypatch.setattr(keeping, "_MOST_RUNS", 2)
    monkeypatch.setattr(keeping, "_MOST_STEPS", 3)
    world = World()
    kept = keeping.Keeping(_Here())
    codes = []
    for _ in range(3):
        codes.append(Code(world, world.start()))
        codes[-1].run("t", NewTimer(60.0))
        assert world.last is not None
        kept.note(world.last.subjects.runs.values())
    assert list(kept._runs) == [codes[1].key, codes[2].key]
    world.do(codes[2].message(*(codes[2].call(name, NewTimer(60.0)) for name in "abcd")))
    assert world.last is not None
    kept.note(world.last.subjects.runs.values())
    assert list(kept._runs) == [codes[1].key]


def test_a_run_with_a_task_for_people_is_not_kept() -> None:
    """The step's row is one of two: what becomes of it is written with the other."""
    world = World()
    kept = keeping.Keeping(_Here())
    code = Code(world, world.start())
    code.run("ask", NewUserTask())
    assert world.last is not None
    kept.note(world.last.subjects.runs.values())
    assert not kept._runs


async def test_who_wants_more_of_a_kept_run_locks_it(database_url: str, fetched: Counter[str]) -> None:
    """A wait looks for signals that are there: those are read under the run's lock."""
    async with replica(database_url) as server, look(database_url) as database:
        (key,) = await _held(server)
        await server.do(_completed(server, key))
        order = ended(server, key)
        wait = NewStep("", "wait", 0, "", b"", Kind.WAIT, NewWait("s"))
        await server.do(replace(order, steps=[wait], waiting=True, end=None))
        assert fetched["lock_runs"] == 1
        await database.check()


async def test_what_goes_by_statements_of_its_own_goes_in_the_same_transaction(database_url: str) -> None:
    """The run and what it publishes: no statement may commit the one without the other."""
    async with replica(database_url) as server, look(database_url) as database:
        (key,) = await _held(server)
        await server.do(replace(ended(server, key), cancels=[1], published={"seen": NULL}))
        assert await _phase(database, key) == Phase.COMPLETED
        assert await database.value("SELECT count(*) FROM published") == 1
