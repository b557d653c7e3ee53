"""The SQL functions and what deals with what they leave: once, in order, whoever is cut or stands still."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.engine.proxy import Lose, proxy
from tests.engine.replica import look, ref, replica
from tests.inbox.kit import FUNCTIONS, Seen, consumer, program, signal, start

from stepwell_server.engine.committer import link
from stepwell_server.engine.driven_steps import BeginStep
from stepwell_server.engine.inbox import order_of
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.payloads import NULL
from stepwell_server.store import batch_reads, batches, inbox
from stepwell_server.store.faults import Conflict, Lost

SIGNAL, START, STEP = "stepwell_signal", "stepwell_start", "stepwell_complete_step"
NONE = UUID(int=0)


async def test_what_a_transaction_asked_for_happens_when_it_is_committed(database_url: str) -> None:
    """A run, a signal to it, and the end of a step of another: by one transaction, together with the program's own."""
    async with consumer(database_url) as mine, program(database_url) as sql, look(database_url) as database:
        seen = Seen(sql)
        engine = await mine.server.start(driven=True)
        await mine.server.do(BeginStep(ref(engine), "charge", NULL, "", 0))
        async with sql.transaction():
            await sql.execute("INSERT INTO orders VALUES ('tea')")
            run_id = await start(sql, input=json.dumps({"seats": 2}), workflow_id="w", task_queue="orders", priority=7)
            await signal(sql, run_id, "go", payload="1", signal_id="s1")
            await sql.fetchval(
                "SELECT stepwell.stepwell_complete_step($1, 'charge', result => '{\"paid\": true}')", engine.run_id
            )
            assert run_id.version == 7
            assert await mine.drain() == 0
        assert await mine.drain() == 3
        assert await seen.signals() == {run_id: ["go"]}
        (run,) = await database.rows("SELECT * FROM runs WHERE run_id = $1", run_id)
        assert (run["workflow_id"], run["task_queue"], run["priority"], run["type"]) == ("w", "orders", 7, "flow")
        assert run["traceparent"]
        (step,) = await database.rows("SELECT * FROM closed_steps WHERE run_key = $1", engine.run_key)
        results = "SELECT payload FROM events WHERE run_key = $1 AND number = $2"
        assert json.loads(await database.value(results, engine.run_key, step["end_event"])) == {"paid": True}
        started = "SELECT payload FROM events WHERE run_key = $1 AND number = 1"
        assert json.loads(await database.value(started, run["run_key"])) == {"seats": 2}
        assert (await seen.waiting(), await seen.dead()) == (0, [])
        await database.check()


async def test_what_is_rolled_back_was_never_asked_for(database_url: str) -> None:
    async with consumer(database_url) as mine, program(database_url) as sql:
        transaction = sql.transaction()
        await transaction.start()
        await start(sql)
        await transaction.rollback()
        assert await mine.drain() == 0
        assert await Seen(sql).runs() == {}


BAD: list[tuple[str, dict[str, Any], str]] = [
    (START, {"type": ""}, "type is required"),
    (START, {"type": None}, "type is required"),
    (START, {"type": "x" * 256}, "type has more than 255 bytes"),
    (START, {"type": "ä" * 128}, "type has more than 255 bytes"),
    (START, {"type": "a\nb"}, "type holds a control character"),
    (START, {"type": "a\x85b"}, "type holds a control character"),
    (START, {"type": "t", "workflow_id": "x" * 256}, "workflow_id has more"),
    (START, {"type": "t", "task_queue": ""}, "task_queue is required"),
    (START, {"type": "t", "priority": 10}, "priority is 10"),
    (START, {"type": "t", "priority": None}, "priority is null"),
    (START, {"type": "t", "namespace": "none"}, "namespace 'none' does not exist"),
    (START, {"type": "t", "namespace": None}, "namespace NULL does not exist"),
    (START, {"type": "t", "input": json.dumps("x" * 2_097_152)}, "input has 2097154 bytes"),
    (SIGNAL, {"signal_name": "", "run_id": NONE}, "signal_name is required"),
    (SIGNAL, {"signal_name": "s"}, "workflow_id is required"),
    (SIGNAL, {"signal_name": "s", "run_id": NONE, "workflow_id": "w"}, "workflow_id stands beside run_id"),
    (SIGNAL, {"signal_name": "s", "run_id": NONE, "signal_id": "x" * 256}, "signal_id has more"),
    (SIGNAL, {"signal_name": "s", "run_id": NONE, "payload": json.dumps("x" * 2_097_152)}, "payload has 2097154"),
    (STEP, {"run_id": None, "step_name": "s"}, "run_id is required"),
    (STEP, {"run_id": NONE, "step_name": ""}, "step_name is required"),
    (STEP, {"run_id": NONE, "step_name": "s", "namespace": "none"}, "namespace 'none' does not exist"),
]


@pytest.mark.parametrize(("function", "given", "problem"), BAD)
async def test_what_is_wrong_is_told_at_once(
    shared_database_url: str, function: str, given: dict[str, Any], problem: str
) -> None:
    """In the program's own transaction, by an error that names the argument; nothing is left of it."""
    async with program(shared_database_url) as sql:
        names = ", ".join(f"{name} => ${place}" for place, name in enumerate(given, start=1))
        with pytest.raises(asyncpg.InvalidParameterValueError, match=problem):
            await sql.fetchval(f"SELECT stepwell.{function}({names})", *given.values())
        assert await Seen(sql).waiting() == 0


@pytest.mark.parametrize("given", [{"type": "a\0b"}, {"type": "t", "input": '"\\u0000"'}])
async def test_nul_does_not_get_in(database_url: str, given: dict[str, str]) -> None:
    """Postgres has it in no text, and in no jsonb."""
    async with program(database_url) as sql:
        with pytest.raises(asyncpg.DataError):
            await start(sql, **given)


async def test_an_open_transaction_holds_up_nobody(database_url: str) -> None:
    """Neither what others asked for, nor the committer; not even at the run that it is about itself."""
    async with (
        consumer(database_url) as mine,
        program(database_url) as slow,
        program(database_url) as sql,
        asyncio.timeout(60),
    ):
        seen = Seen(sql)
        run_id = await start(sql)
        assert await mine.drain() == 1
        await sql.execute("INSERT INTO stepwell.namespaces (name, create_time) VALUES ('short', now())")
        transaction = slow.transaction()
        await transaction.start()
        await signal(slow, run_id, "slow")
        early = await start(slow, workflow_id="w")
        await signal(slow, run_id, "never", namespace="short")
        for name in ("a", "b"):
            await signal(sql, run_id, name)
        late = await start(sql, workflow_id="v")
        await sql.execute("SET lock_timeout = '2s'")
        await start(sql, namespace="short")
        await sql.execute("DELETE FROM stepwell.namespaces WHERE name = 'short'")
        assert await mine.drain() == 4
        assert await seen.signals() == {run_id: ["a", "b"]}
        started = await mine.server.start(workflow_id="u")
        await mine.server.do(TerminateRun(ref(started), ""))
        await transaction.commit()
        assert await mine.drain() == 3
        assert await seen.signals() == {run_id: ["a", "b", "slow"]}
        assert {run_id, early, late} < set(await seen.runs())


async def test_ten_thousand_of_one_transaction(database_url: str) -> None:
    """In the order in which it asked, over a hundred runs, by two committers."""
    async with consumer(database_url, committers=2) as mine, program(database_url) as sql:
        run_ids = [uuid4() for _ in range(100)]
        async with sql.transaction():
            for run_id in run_ids:
                await start(sql, run_id=run_id)
            await sql.executemany(
                "SELECT stepwell.stepwell_signal($1, run_id => $2)",
                [(f"s{number}", run_ids[number % 100]) for number in range(9_900)],
            )
        assert await mine.drain() == 10_000
        found = await Seen(sql).signals()
        assert {run_id: found[run_id] for run_id in run_ids} == {
            run_id: [f"s{number}" for number in range(9_900) if number % 100 == place]
            for place, run_id in enumerate(run_ids)
        }
        assert (await Seen(sql).waiting(), await Seen(sql).dead()) == (0, [])


async def test_two_who_think_they_lead_do_nothing_twice(database_url: str) -> None:
    """Each row is one's; of each run all come in their order."""
    async with (
        consumer(database_url) as one,
        consumer(database_url, committers=2) as two,
        program(database_url) as sql,
    ):
        run_ids = [uuid4() for _ in range(20)]
        async with sql.transaction():
            for place, run_id in enumerate(run_ids):
                await start(sql, run_id=run_id, workflow_id=f"w{place}")
            for number in range(600):
                await signal(sql, run_ids[number % 20], f"s{number}")
        await asyncio.gather(one.drain(), two.drain())
        found = await Seen(sql).signals()
        assert [found[run_id] for run_id in run_ids] == [
            [f"s{number}" for number in range(600) if number % 20 == place] for place in range(20)
        ]
        assert (len(await Seen(sql).runs()), await Seen(sql).waiting(), await Seen(sql).dead()) == (20, 0, [])


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_a_commit_that_is_cut_does_what_was_asked_once(database_url: str, lose: Lose) -> None:
    async with proxy(database_url) as way, consumer(way.url) as mine, program(database_url) as sql:
        run_id = uuid4()
        async with sql.transaction():
            await start(sql, run_id=run_id)
            for number in range(20):
                await signal(sql, run_id, f"s{number}")
        await mine.server.start()
        way.lose = lose
        await asyncio.wait_for(mine.drain(), 60)
        assert way.lost == 1
        assert await Seen(sql).signals() == {run_id: [f"s{number}" for number in range(20)]}
        assert (await Seen(sql).waiting(), await Seen(sql).dead()) == (0, [])


async def test_what_cannot_be_done_is_put_aside_with_its_reason(database_url: str) -> None:
    """And holds up nothing that comes after it."""
    async with consumer(database_url) as mine, program(database_url) as sql:
        ended = await mine.server.start(workflow_id="w")
        await mine.server.do(TerminateRun(ref(ended), ""))
        engine = await mine.server.start(driven=True, workflow_id="v")
        await signal(sql, uuid4(), "unknown")
        await signal(sql, ended.run_id, "late")
        await start(sql, workflow_id="v")
        await start(sql, run_id=ended.run_id)
        for name, run_id in (("none", engine.run_id), ("x", ended.run_id)):
            await sql.fetchval("SELECT stepwell.stepwell_complete_step($1, $2)", run_id, name)
        stale = "SELECT stepwell.stepwell_complete_step($1, 'begun', token => 7)"
        await mine.server.do(BeginStep(ref(engine), "begun", NULL, "", 0))
        await sql.fetchval(stale, engine.run_id)
        await sql.fetchval("SELECT stepwell.stepwell_signal('last', workflow_id => 'v')")
        assert await mine.drain() == 8
        assert await Seen(sql).dead() == [
            ("unknown", "RUN_NOT_FOUND"),
            ("late", "SIGNAL_REFUSED"),
            ("flow", "WORKFLOW_ID_IN_USE"),
            ("flow", "RUN_EXISTS"),
            ("none", "STEP_NOT_FOUND"),
            ("x", "STEP_NOT_FOUND"),
            ("begun", "LEASE_LOST"),
        ]
        assert await Seen(sql).signals() == {engine.run_id: ["last"]}
        assert await Seen(sql).waiting() == 0


async def test_a_namespace_that_went_meanwhile_is_a_reason(database_url: str) -> None:
    async with consumer(database_url) as mine, program(database_url) as sql:
        await sql.execute("INSERT INTO stepwell.namespaces (name, create_time) VALUES ('short', now())")
        await start(sql, namespace="short")
        await sql.execute("DELETE FROM stepwell.namespaces WHERE name = 'short'")
        assert await mine.drain() == 1
        assert await Seen(sql).dead() == [("flow", "NAMESPACE_NOT_FOUND")]


async def test_what_finds_no_room_comes_again(database_url: str) -> None:
    """Nothing is put aside because the service has too much to do, and nothing that comes after overtakes it."""
    async with (
        consumer(database_url, committer_queue_commands=3, committer_batch_commands=2) as mine,
        program(database_url) as sql,
    ):
        run_id = await start(sql)
        for number in range(20):
            await signal(sql, run_id, f"s{number}")
        assert await mine.drain() == 21
        assert await Seen(sql).signals() == {run_id: [f"s{number}" for number in range(20)]}
        assert await Seen(sql).dead() == []


async def test_what_is_refused_in_passing_comes_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome that stays unknown is no reason to put anything aside."""

    async def never(*_: object) -> bool:
        raise Lost("nobody there")

    monkeypatch.setattr(batches, "settle", never)
    monkeypatch.setattr(link, "SETTLE_SECONDS", 0.3)
    async with proxy(database_url) as way, consumer(way.url) as mine, program(database_url) as sql:
        run_id = await start(sql)
        await signal(sql, run_id, "go")
        await mine.server.start()
        way.lose = Lose.REQUEST
        await mine.drain()
        assert (way.lost, await Seen(sql).waiting(), await Seen(sql).dead()) == (1, 2, [])
        assert await mine.drain() == 2
        assert await Seen(sql).signals() == {run_id: ["go"]}


@pytest.mark.parametrize("by", ["run_id", "workflow_id"])
async def test_a_start_done_elsewhere_meanwhile_leaves_its_signals(
    database_url: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Whoever led before does the start after this batch has looked for its run, and before it locks the rows."""
    async with consumer(database_url) as before, consumer(database_url) as mine, program(database_url) as sql:
        run_id = uuid4()
        async with sql.transaction():
            await start(sql, run_id=run_id, workflow_id="w")
            for name in ("a", "b"):
                named = {"run_id": run_id, "workflow_id": "w"}[by]
                await sql.fetchval(f"SELECT stepwell.stepwell_signal($1, {by} => $2)", name, named)
        left = batch_reads.inbox_left
        connection = await before.server.database.connect()
        rows = await inbox.read(connection, 0, 1)
        await connection.close()

        async def late(*given: Any) -> set[int]:
            monkeypatch.setattr(batch_reads, "inbox_left", left)
            assert await before.server.committers.submit(order_of(rows[0]), inbox=rows[0].number)
            return await left(*given)

        monkeypatch.setattr(batch_reads, "inbox_left", late)
        await mine.drain()
        assert await Seen(sql).dead() == []
        assert await Seen(sql).signals() == {run_id: ["a", "b"]}


async def test_a_row_that_is_gone_when_it_is_deleted_is_a_conflict(database_url: str) -> None:
    """Whoever took it did what it asks for, and this batch must not."""
    async with replica(database_url) as server, program(database_url) as sql:
        await start(sql)
        connection = await server.database.connect()
        write = batches.Write(uuid4(), 0, 0, datetime.now(UTC), inbox_done=[1])
        async with connection.transaction():
            await batches.write(connection, write)
        write = batches.Write(uuid4(), 0, 1, datetime.now(UTC), inbox_done=[1])
        with pytest.raises(Conflict):
            async with connection.transaction():
                await batches.write(connection, write)
        await connection.close()


async def test_a_row_that_somebody_else_has_dealt_with_changes_nothing(database_url: str) -> None:
    """Its command is told so, and those beside it in the batch go on."""
    async with replica(database_url) as server, program(database_url) as sql:
        started = await server.start()
        gone = server.committers.submit(SignalRun(ref(started), "gone", NULL), inbox=99)
        beside = server.submit(SignalRun(ref(started), "beside", NULL))
        assert (await gone, (await beside).recorded) == (False, True)  # type: ignore[attr-defined]
        assert await Seen(sql).signals() == {started.run_id: ["beside"]}


async def test_a_repeated_signal_goes_without_a_trace(database_url: str) -> None:
    """What changes nothing is done with all the same."""
    async with consumer(database_url) as mine, program(database_url) as sql:
        run_id = await start(sql)
        for _ in range(2):
            await signal(sql, run_id, "once", signal_id="s1")
            await mine.drain()
        await signal(sql, run_id, "once", signal_id="s1")
        assert await mine.drain() == 1
        assert await Seen(sql).signals() == {run_id: ["once"]}
        assert (await Seen(sql).waiting(), await Seen(sql).dead()) == (0, [])


# --- who may do what --------------------------------------------------------------------------------------------------


async def test_a_role_that_may_call_the_functions_may_do_nothing_else(database_url: str) -> None:
    """Nor can it lead them to tables of its own."""
    role = f"app_{uuid4().hex[:8]}"
    async with consumer(database_url) as mine, program(database_url) as owner:
        await owner.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA stepwell TO {role}")
        try:
            await owner.execute(f"SET ROLE {role}")
            for function in (START, SIGNAL, STEP, "inbox_uuid"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await owner.fetchval(f"SELECT stepwell.{function}({'' if 'uuid' in function else 'NULL, NULL'})")
            await owner.execute("RESET ROLE")
            await owner.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO {role}; SET ROLE {role}")
            await owner.execute("CREATE TEMP TABLE inbox (LIKE pg_class); CREATE TEMP TABLE namespaces (a int)")
            await owner.execute("SET search_path TO pg_temp, public")
            run_id = await start(owner)
            for table in ("runs", "inbox", "dead_letters", "namespaces"):
                for what in ("SELECT * FROM", "DELETE FROM"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await owner.execute(f"{what} stepwell.{table}")
            for helper in ("inbox_uuid()", "inbox_namespace('main')", "inbox_text('a', 'b', true)"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await owner.fetchval(f"SELECT stepwell.{helper}")
            await owner.execute("RESET ROLE")
            assert await mine.drain() == 1
            assert run_id in await Seen(owner).runs()
        finally:
            await owner.execute("RESET ROLE")
            await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
