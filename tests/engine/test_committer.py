"""The committer on a real Postgres: batches, runs locked elsewhere, names, ids and letters, bounds."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest
from tests.engine.replica import MAIN, look, new_run, ref, replica

from stepwell_server import errors
from stepwell_server.engine.committer.loading import SIGNALS_AT_ONCE
from stepwell_server.engine.letters import ReadLetter
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import NewChild, NewStep, NewWait, ScopeClaim
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.model.events import EventType
from stepwell_server.model.mail import unpack_letter
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import EMPTY_HASH, RunRef
from stepwell_server.model.steps import Kind


def signal(started: Started, name: str = "s", signal_id: str | None = None) -> SignalRun:
    return SignalRun(ref(started), name, NULL, signal_id)


async def test_concurrent_commands_on_one_run_get_consecutive_numbers(database_url: str) -> None:
    """200 signals at once, over two committers that both reach for the run: 200 numbers, none twice, none left out."""
    async with replica(database_url, committers=2) as server, look(database_url) as database:
        started = await server.start(workflow_id="w")
        by_name = RunRef(MAIN, "main", workflow_id="w")
        futures = [server.submit(SignalRun(ref(started) if n % 2 else by_name, "s", NULL)) for n in range(200)]
        answers = await asyncio.gather(*futures)
        ordinals = sorted(answer.number & 0x1FFFF for answer in answers if isinstance(answer, Signalled))
        assert ordinals == list(range(1, 201))
        numbers = [row[0] for row in await database.rows("SELECT number FROM events ORDER BY number")]
        assert numbers == list(range(1, 202))
        await database.check()


@pytest.mark.parametrize("committers", [1, 2])
async def test_a_batch_may_start_more_runs_than_a_block_has_keys(database_url: str, committers: int) -> None:
    """Blocks are taken until each run of the batch has a key of its own."""
    async with replica(database_url, committers=committers, committer_batch_commands=5_000) as server:
        answers = await asyncio.gather(*(server.submit(StartRun(new_run())) for _ in range(2_500)))
        keys = {answer.run_key for answer in answers if isinstance(answer, Started)}
        assert len(keys) == 2_500


# --- locked elsewhere -------------------------------------------------------------------------------------------------


async def test_commands_of_a_locked_run_wait_aside_in_their_order(database_url: str) -> None:
    """Those that come while others are aside join them: nobody overtakes, and other runs go on meanwhile."""
    async with replica(database_url) as server, look(database_url) as database, look(database_url) as other:
        started, free = await server.start(), await server.start()
        lock = other.raw.transaction()
        await lock.start()
        await other.raw.execute("SELECT * FROM runs WHERE run_key = $1 FOR UPDATE", started.run_key)
        futures = []
        for n in range(120):
            futures.append(server.submit(signal(started, f"s{n:03}")))
            if n % 3 == 0:
                await asyncio.sleep(0.002)
        assert isinstance(await asyncio.wait_for(server.do(signal(free)), 1.0), Signalled)
        assert not any(future.done() for future in futures)
        await lock.rollback()
        # Further ones keep coming while those aside come back.
        for n in range(120, 600):
            futures.append(server.submit(signal(started, f"s{n:03}")))
            if n % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*futures)
        names = [
            row[0]
            for row in await database.rows(
                "SELECT name FROM signals WHERE run_key = $1 ORDER BY ordinal", started.run_key
            )
        ]
        assert names == [f"s{n:03}" for n in range(600)]
        await database.check()


async def test_a_locked_run_is_busy_at_the_deadline(database_url: str) -> None:
    """The caller hears ABORTED with the name that it gave, soon after its time is over; later ones still wait."""
    async with replica(database_url) as server, look(database_url) as other:
        started = await server.start(workflow_id="mine")
        lock = other.raw.transaction()
        await lock.start()
        await other.raw.execute("SELECT * FROM runs WHERE run_key = $1 FOR UPDATE", started.run_key)
        patient = server.submit(signal(started, "patient"))
        begun = time.monotonic()
        hurried = SignalRun(RunRef(MAIN, "main", workflow_id="mine"), "s", NULL)
        with pytest.raises(errors.RunBusy) as told:
            await asyncio.wait_for(server.do(hurried, seconds=0.3), 60)
        assert time.monotonic() - begun > 0.2
        assert told.value.run_id == "mine"
        assert not patient.done()
        await lock.rollback()
        assert isinstance(await patient, Signalled)


async def test_what_is_aside_counts_for_the_bound(database_url: str) -> None:
    """A run that stays locked does not let the queue grow beyond its bound."""
    bounds = {"committer_queue_commands": 28, "committer_batch_commands": 10}
    async with replica(database_url, **bounds) as server, look(database_url) as other:
        started = await server.start()
        async with other.raw.transaction():
            await other.raw.execute("SELECT * FROM runs WHERE run_key = $1 FOR UPDATE", started.run_key)
            futures = [server.submit(signal(started)) for _ in range(20)]
            # All have been tried and are aside.
            await asyncio.sleep(0.2)
            # What is just being tried does not wait: a batch of 10.
            with pytest.raises(errors.QueueFull):
                futures += [server.submit(signal(started)) for _ in range(19)]
        await asyncio.gather(*futures)
        assert server.committer.waiting == 0


async def test_stopping_answers_what_is_aside(database_url: str) -> None:
    """A server that leaves answers everybody, also those whose run is locked just then."""
    async with look(database_url) as other, replica(database_url) as server:
        started = await server.start()
        lock = other.raw.transaction()
        await lock.start()
        await other.raw.execute("SELECT * FROM runs WHERE run_key = $1 FOR UPDATE", started.run_key)
        future = server.submit(signal(started))
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(server.committers.stop())
        await asyncio.sleep(0.05)
        await lock.rollback()
        await stopping
        assert future.done()
        assert isinstance(future.result(), Signalled)


async def test_a_full_queue_refuses(database_url: str) -> None:
    """What goes beyond the bound is told so at once, and what was taken is answered."""
    bounds = {"committer_queue_commands": 50, "committer_batch_commands": 10}
    async with replica(database_url, **bounds) as server:
        futures, refused = [], 0
        for _ in range(80):
            try:
                futures.append(server.submit(StartRun(new_run())))
            except errors.QueueFull:
                refused += 1
        # Of what may wait, a quarter is kept for other namespaces.
        assert (len(futures), refused) == (38, 42)
        assert all(isinstance(answer, Started) for answer in await asyncio.gather(*futures))


# --- names, ids, letters ----------------------------------------------------------------------------------------------


async def test_two_replicas_start_one_run_for_one_id(database_url: str) -> None:
    """The same request on both at once: one run, and both callers hear of it."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        for _ in range(20):
            order = StartRun(new_run(run_id=uuid4()), request_id="r", request_hash=b"h")
            answers = await asyncio.gather(one.do(order), two.do(order))
            assert len({answer.run_key for answer in answers}) == 1
            assert sorted(answer.started for answer in answers) == [False, True]
        with pytest.raises(errors.RequestIdReused):
            await one.do(StartRun(order.new, request_id="r", request_hash=b"other"))
        assert await database.value("SELECT count(*) FROM runs") == 20


async def test_two_replicas_give_one_name_once(database_url: str) -> None:
    """Of many starts under one workflow id, on both at once, one begins; the others hear who bears the name."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        orders = [StartRun(new_run(workflow_id="w")) for _ in range(40)]
        futures = [(one if n % 2 else two).submit(order) for n, order in enumerate(orders)]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert sum(isinstance(answer, Started) for answer in answers) == 1
        assert sum(isinstance(answer, errors.WorkflowIdInUse) for answer in answers) == 39
        assert await database.value("SELECT count(*) FROM runs") == 1


async def test_two_replicas_give_the_name_of_an_ended_run_once(database_url: str) -> None:
    """The name changes hands once, however many reach for it at the same moment."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        for _ in range(10):
            orders = [StartRun(new_run(workflow_id="w")) for _ in range(4)]
            futures = [(one if n % 2 else two).submit(order) for n, order in enumerate(orders)]
            answers = await asyncio.gather(*futures, return_exceptions=True)
            (started,) = [answer for answer in answers if isinstance(answer, Started)]
            await one.do(TerminateRun(ref(started), ""))
        assert await database.value("SELECT count(*) FROM closed_runs") == 10


async def test_a_signal_id_is_recorded_once(database_url: str) -> None:
    """The same signal on two replicas, again and again: one is kept, all callers get its number."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        started = await one.start()
        order = signal(started, signal_id="id")
        answers = await asyncio.gather(*((one if n % 2 else two).do(order) for n in range(20)))
        assert sum(answer.recorded for answer in answers) == 1
        assert len({answer.number for answer in answers}) == 1
        assert await database.value("SELECT count(*) FROM signals") == 1


async def test_more_signals_than_are_loaded_at_once(database_url: str) -> None:
    """Each wait of a progress gets its signal, the oldest first, however many are kept."""
    count = SIGNALS_AT_ONCE + 10
    async with replica(database_url) as server, look(database_url) as database:
        started = await server.start()
        await asyncio.gather(*(server.do(signal(started)) for _ in range(count)))
        (grant,) = await server.claim()
        steps = [NewStep("", "w", n, "", b"", Kind.WAIT, NewWait("s")) for n in range(count)]
        claims = [ScopeClaim("", 0, EMPTY_HASH, closed=False)]
        named = RunRef(MAIN, "main", grant.run.run_key)
        progress = ProgressRun(named, server.session, 1, claims, steps, [], waiting=True, end=None, resident=True)
        answer = await server.do(progress)
        taken = [ended.step.ordinal for ended in answer.ended]
        assert taken == list(range(1, count + 1))
        assert await database.value("SELECT count(*) FROM signals WHERE NOT consumed") == 0
        await database.check()


async def test_a_letter_is_applied_once_by_two_replicas(database_url: str) -> None:
    """Both deliver the same mail at once: the parent's step ends once, and neither stalls over it."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        await one.start()
        (grant,) = await one.claim()
        step = NewStep("", "c", 0, "", b"", Kind.CHILD, NewChild("flow"))
        claims = [ScopeClaim("", 0, EMPTY_HASH, closed=False)]
        named = RunRef(MAIN, "main", grant.run.run_key)
        await one.do(ProgressRun(named, one.session, 1, claims, [step], [], waiting=True, end=None, resident=True))
        child = await database.value("SELECT child_key FROM steps")
        one.committers.post = lambda orders: None  # type: ignore[method-assign]
        one.committer.post = lambda orders: None
        await one.do(TerminateRun(RunRef(MAIN, "main", child), "enough"))
        (mail,) = await database.rows("SELECT mail_id, run_key, body FROM mail")
        letter = ReadLetter(RunRef(None, "", mail["run_key"]), mail["mail_id"], unpack_letter(mail["body"]))
        futures = [(one if n % 2 else two).submit(letter, seconds=600) for n in range(20)]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*futures, return_exceptions=True)
        assert sorted(answers, key=str) == [*[False] * 19, True]
        kinds = [row[0] for row in await database.rows("SELECT type FROM events WHERE run_key = $1", mail["run_key"])]
        assert kinds.count(EventType.CHILD_FAILED) == 1
        assert await database.value("SELECT count(*) FROM mail") == 0


async def test_many_letters_leave_room_for_callers(database_url: str) -> None:
    """The end of a run with more children than the queue holds leaves what does not fit to the round of deliveries."""
    bounds = {"committer_queue_commands": 40, "committer_batch_commands": 10}
    async with replica(database_url, **bounds) as server, look(database_url) as database:
        await server.start()
        (grant,) = await server.claim()
        steps = [NewStep("", "c", n, "", b"", Kind.CHILD, NewChild("flow")) for n in range(100)]
        claims = [ScopeClaim("", 0, EMPTY_HASH, closed=False)]
        named = RunRef(MAIN, "main", grant.run.run_key)
        await server.do(ProgressRun(named, server.session, 1, claims, steps, [], waiting=True, end=None, resident=True))
        await server.do(TerminateRun(named, "enough"))
        assert server.committer.waiting <= 20
        assert isinstance(await server.start(), Started)
        while server.committer.waiting:  # noqa: ASYNC110 - letters have no futures
            await asyncio.sleep(0.01)
        assert await database.value("SELECT count(*) FROM mail") >= 60


async def test_starts_without_a_name_are_spread(database_url: str) -> None:
    """Runs that nobody names do not all queue up at one committer."""
    async with replica(database_url, committers=2) as server:
        await asyncio.gather(*(server.start() for _ in range(40)))
        assert {committer for committer, _, _ in server.ears.batches} == {
            member.number for member in server.committers.members
        }
