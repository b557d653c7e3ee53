"""Connections lost at every moment of a batch: all are answered, with the truth, and nothing is recorded twice."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace
from tests.engine.code import COMPLETED
from tests.engine.proxy import Lose, proxy
from tests.engine.replica import Look, Replica, end_of, look, new_run, ref, replica

from stepwell_server import errors, refusals
from stepwell_server.engine.committer import link
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.model.payloads import NULL
from stepwell_server.store import batches
from stepwell_server.store.faults import Conflict, Lost


async def mixed_work(server: Replica, started: Started) -> tuple[list[asyncio.Future[object]], list[Started]]:
    """Starts and signals in one batch; answers their futures."""
    futures = [server.submit(StartRun(new_run())) for _ in range(30)]
    futures += [server.submit(SignalRun(ref(started), "s", NULL)) for _ in range(10)]
    return futures, []


async def recorded_once(server: Replica, database: Look, futures: list[asyncio.Future[object]]) -> None:
    answers = await asyncio.wait_for(asyncio.gather(*futures), 60)
    starts = [answer for answer in answers if isinstance(answer, Started)]
    signals = [answer for answer in answers if isinstance(answer, Signalled)]
    assert (len(starts), len(signals)) == (30, 10)
    assert len({start.run_key for start in starts}) == 30
    assert await database.value("SELECT count(*) FROM runs") == 31
    assert await database.value("SELECT count(*) FROM signals") == 10
    assert await database.value("SELECT count(*) FROM run_ids") == 31
    keys = {row[0] for row in await database.rows("SELECT run_key FROM runs")}
    assert {start.run_key for start in starts} < keys
    await database.check()
    positions = [(number, position) for number, position, _ in server.ears.batches]
    assert positions == sorted(set(positions))
    written = {(row[0], row[1]) for row in await database.rows("SELECT committer, position FROM batches")}
    assert set(positions) == {each for each in written if each[0]}


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_a_connection_lost_in_commit_is_settled(database_url: str, lose: Lose) -> None:
    """Whether the COMMIT arrived or not is found out before anybody is answered; if not, the batch is tried again."""
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        started = await server.start()
        futures, _ = await mixed_work(server, started)
        way.lose = lose
        await recorded_once(server, database, futures)
        assert way.lost == 1


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_a_batch_of_one_statement_whose_connection_is_lost_is_settled(database_url: str, lose: Lose) -> None:
    """It commits by itself: lost on its way it is tried again, and with its reply lost it is known to be there."""
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        await server.start()  # takes keys, and has the statement prepared
        way.lose, way.at = lose, 1
        started = await server.start()
        assert way.lost == 1
        assert await database.value("SELECT count(*) FROM runs") == 2
        assert await database.value("SELECT run_id FROM runs ORDER BY run_key DESC LIMIT 1") == started.run_id
        positions = [position for _, position, _ in server.ears.batches]
        assert positions == [1, 2]
        await database.check()


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_a_settlement_whose_own_reply_is_lost_is_repeated(
    database_url: str, lose: Lose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the settler itself wrote the first time does not look like the batch to it the second time."""
    settle, calls = batches.settle, 0

    async def deaf(*arguments: Any) -> bool:
        nonlocal calls
        calls += 1
        answer = await settle(*arguments)
        if calls == 1:
            raise Lost("the reply did not arrive")
        return answer

    monkeypatch.setattr(batches, "settle", deaf)
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        started = await server.start()
        futures, _ = await mixed_work(server, started)
        way.lose = lose
        await recorded_once(server, database, futures)
        assert calls == 2


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_what_stays_unknown_is_told_so_and_the_door_stays_open(
    database_url: str, lose: Lose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers hear UNAVAILABLE, places go back, whoever listens is warned; the next command is taken as any other."""

    async def never(*_: object) -> bool:
        raise Lost("nobody there")

    monkeypatch.setattr(batches, "settle", never)
    monkeypatch.setattr(link, "SETTLE_SECONDS", 0.3)
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        order = StartRun(new_run(run_id=uuid4()), request_id="r", request_hash=b"h")
        server.ears.session = uuid4()
        # Takes keys, and has the statements prepared: then the look is the first message, and the write the second.
        await server.do(replace(order, new=new_run(run_id=uuid4())))
        server.ears.taken = 0
        way.lose, way.at = lose, 2
        with pytest.raises(errors.OutcomeUnknown):
            await server.do(order)
        assert (server.ears.unknown, server.ears.taken) == (1, 0)
        repeated = await asyncio.wait_for(server.do(order), 60)
        assert repeated.started is (lose is Lose.REQUEST)
        assert isinstance(await server.start(), Started)
        assert await database.value("SELECT count(*) FROM runs") == 3
        assert await database.value("SELECT count(*) FROM (SELECT DISTINCT committer, position FROM batches) AS b") == (
            await database.value("SELECT count(*) FROM batches")
        )


async def test_places_are_kept_in_step_through_a_retry(database_url: str) -> None:
    """A batch that is tried again gives its places back first: as many are taken as tasks were granted."""
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        server.ears.session = uuid4()
        poison = StartRun(new_run(type="\ud800"))
        futures = [server.submit(StartRun(new_run())) for _ in range(20)]
        bad = server.submit(poison)
        way.lose = Lose.REQUEST
        await asyncio.gather(*futures)
        with pytest.raises(refusals.Internal):
            await bad
        assert server.ears.taken == 20
        assert await database.value("SELECT count(*) FROM runs WHERE session_id IS NOT NULL") == 20


async def test_a_backend_killed_in_the_middle_of_a_batch(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it was committed: it is tried again on a new connection, once."""
    write, killed = batches.write, 0

    async with replica(database_url) as server, look(database_url) as database, look(database_url) as killer:

        async def interrupted(connection: Any, batch: batches.Write) -> None:
            nonlocal killed
            await write(connection, batch)
            if killed < 3:
                killed += 1
                await killer.value("SELECT pg_terminate_backend($1, 5000)", connection.raw.get_server_pid())

        started = await server.start()
        monkeypatch.setattr(batches, "write", interrupted)
        futures, _ = await mixed_work(server, started)
        await recorded_once(server, database, futures)
        assert killed == 3


async def test_backends_killed_at_random_moments(database_url: str) -> None:
    """Kill after kill while hundreds of runs start, are claimed and end: every call is answered, all is there once."""
    async with (
        replica(database_url, committers=2) as server,
        look(database_url) as database,
        look(database_url) as axe,
    ):
        ended: list[int] = []
        done = False

        async def kill() -> None:
            while not done:
                # However slow the machine: something is committed between two kills.
                seen = len(server.ears.batches)
                while len(server.ears.batches) == seen and not done:  # noqa: ASYNC110 - ears have no event for it
                    await asyncio.sleep(0.005)
                await asyncio.sleep(random.uniform(0, 0.03))
                await axe.value(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE application_name = 'stepwell committer' AND datname = current_database()"
                )

        async def life() -> None:
            order = StartRun(new_run(run_id=uuid4()), request_id="r", request_hash=b"h")
            started = await server.do(order)
            assert (await server.do(order)).run_key == started.run_key
            for n in range(3):
                await server.do(SignalRun(ref(started), "s", NULL, f"{n}"))

        async def work() -> None:
            while len(ended) < 100:
                for grant in await server.claim(5):
                    answer = await server.do(end_of(grant, COMPLETED))
                    assert not answer.duplicate
                    ended.append(grant.run.run_key)

        killing = asyncio.create_task(kill())
        try:
            await asyncio.wait_for(asyncio.gather(*(life() for _ in range(100)), return_exceptions=False), 60)
            await asyncio.wait_for(work(), 60)
        finally:
            done = True
            await killing
        assert len(set(ended)) == 100
        assert await database.value("SELECT count(*) FROM closed_runs WHERE grants = 1") == 100
        assert await database.value("SELECT count(*) FROM events") == 500
        await database.check()


async def test_commands_hear_that_the_database_is_away_when_their_time_is_over(database_url: str) -> None:
    """Not only when it is back: nobody waits longer than it asked for."""
    async with proxy(database_url) as way, replica(way.url) as server:
        started = await server.start()
        way.away = True
        way.cut()
        futures = [server.submit(SignalRun(ref(started), "s", NULL), seconds=seconds) for seconds in (0.5, 0.6)]
        await asyncio.sleep(0.1)
        futures.append(server.submit(SignalRun(ref(started), "s", NULL), seconds=0.7))
        patient = server.submit(SignalRun(ref(started), "s", NULL), seconds=600)
        for future in futures:
            with pytest.raises(errors.DatabaseUnavailable):
                await asyncio.wait_for(future, 60)
        assert not patient.done()
        way.away = False
        assert isinstance(await asyncio.wait_for(patient, 60), Signalled)


async def test_an_outage_in_commit_is_told_in_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that goes away in COMMIT and does not come back: callers hear that nobody knows."""
    monkeypatch.setattr(link, "SETTLE_SECONDS", 0.5)
    async with proxy(database_url) as way, replica(way.url) as server:
        started = await server.start()
        way.lose = Lose.REPLY
        future = server.submit(SignalRun(ref(started), "s", NULL))
        while way.lose is not Lose.NOTHING:  # noqa: ASYNC110 - the proxy has no event for it
            await asyncio.sleep(0)
        way.away = True
        with pytest.raises(errors.OutcomeUnknown):
            await asyncio.wait_for(future, 60)
        way.away = False
        assert isinstance(await asyncio.wait_for(server.do(SignalRun(ref(started), "s", NULL)), 60), Signalled)


async def test_settling(database_url: str) -> None:
    """Of a batch that committed: true, however often; of one that did not: false, however often, and it never will."""
    async with replica(database_url) as server:
        connection = await server.database.connect()
        try:
            now = server.committer._clock.now()
            await server.start()
            committed = await connection.raw.fetchval("SELECT batch_id FROM batches")
            absent = uuid4()
            for _ in range(2):
                assert await batches.settle(connection, committed, now) is True
                assert await batches.settle(connection, absent, now) is False
        finally:
            await connection.close()


async def test_a_letter_that_is_gone_when_it_is_deleted_is_a_conflict(database_url: str) -> None:
    """Two replicas may apply the same letter to a run that has ended, which nobody locks: the second does nothing."""
    async with replica(database_url) as server:
        connection = await server.database.connect()
        write = batches.Write(uuid4(), 99, 1, server.committer._clock.now(), mail_done=[uuid4()])
        try:
            with pytest.raises(Conflict):
                await batches.write(connection, write)
        finally:
            await connection.close()


async def test_a_listener_at_fault_changes_no_answer(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed is answered as committed, whatever happens to those who hear of it."""
    async with replica(database_url) as server:
        monkeypatch.setattr(server.ears, "committed", lambda *_: 1 / 0)
        assert isinstance(await server.start(), Started)
