"""Queries: answered by whoever holds the run, else by what it last published."""

from __future__ import annotations

import asyncio

from tests.stream.asking import LONG, accept, answer, facts_of, holding, refused, rows, told
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN, Replica, capacity, hello, payload, replica, until
from tests.stream.wire import Wire, wire

from stepwell.v1 import types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import QueryAnswer

Two = tuple[Replica, Replica]


async def test_a_waiting_run_answers_from_memory(one: Replica) -> None:
    """It takes no slot for it, and its worker need not report."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        other = await one.start()
        await stream.task(RUN, run_id=other)
        asked = asyncio.create_task(one.query(run_id, input=payload({"of": "files"})))
        query = await answer(stream, 42)
        assert (query.name, query.input.json, query.ref) == ("progress", '{"of": "files"}', code.task.ref)
        told = await asked
        assert (told.run_id, told.result.json, told.live) == (run_id, "42", True)
        assert not told.HasField("publish_time")


async def test_queries_at_once_are_told_apart(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        await holding(stream)
        asked = [asyncio.create_task(one.query(run_id, f"q{number}")) for number in range(20)]
        queries = [await stream.next("queries") for _ in asked]
        for query in reversed(queries):
            value = payload(query.name)
            await stream.say(answers=[QueryAnswer(correlation=query.correlation, ref=query.ref, result=value)])
        assert [each.result.json for each in await asyncio.gather(*asked)] == [f'"q{n}"' for n in range(20)]


async def test_a_failure_of_the_code_is_told(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        await holding(stream)
        asked = asyncio.create_task(refused(one.query(run_id)))
        await answer(stream, failure=types_pb2.Failure(type="KeyError", message="total"))
        reason, facts = await asked
        assert reason == "QUERY_FAILED"
        assert facts == {"run_id": run_id, "query": "progress", "type": "KeyError", "problem": "total"}


async def test_what_was_published_answers_when_nobody_holds_the_run(one: Replica) -> None:
    """Also once the run has ended; of each name the latest counts."""
    run_id = await one.start()
    assert (await refused(one.query(run_id, wait=0.2)))[0] == "NOTHING_PUBLISHED"
    async with wire(one, capacity=capacity(runs=1, resident=0)) as stream:
        code = Code(stream, await stream.task(RUN))
        for done in (1, 2):
            assert (await code.tell(published={"progress": payload(done), "other": payload("x")})).status == ACCEPTED
        await code.wait(code.wait_for("go"))
        await stream.next("revokes")
        told = await one.query(run_id)
        assert (told.result.json, told.live) == ("2", False)
        assert told.publish_time.ToSeconds() >= code.task.run_create_time.ToSeconds()
        assert (await refused(one.query(run_id, "else")))[0] == "NOTHING_PUBLISHED"
        assert list((await one.run(run_id)).published_names) == ["other", "progress"]
        await one.signal(run_id, "go")
        again = Code(stream, await stream.task(RUN))
        again.progress(again.wait_for("go"))
        assert (await again.complete(value="done")).status == ACCEPTED
    assert (await one.query(run_id)).result.json == "2"
    assert (await refused(one.query(run_id, "else")))[0] == "NOTHING_PUBLISHED"


async def test_a_run_whose_worker_is_gone_answers_by_what_it_published(one: Replica) -> None:
    """Its lease stands until the session expires; who asks does not wait for that."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("go"))
        await code.tell(published={"progress": payload(7)}, waiting=True)
        await stream.cut()
        told = await one.query(run_id, wait=LONG)
        assert (told.result.json, told.live) == ("7", False)


async def test_a_worker_that_says_nothing_costs_the_wait_only(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(refused(one.query(run_id, wait=0.5)))
        await stream.next("queries")
        assert (await asked)[0] == "CALL_TIMED_OUT"
        await code.tell(published={"progress": payload(7)}, waiting=True)
        assert (await one.query(run_id, wait=0.5)).result.json == "7"


async def test_a_late_answer_and_one_to_another_s_question_mean_nothing(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream, wire(one, "other", capacity=capacity()) as other:
        await holding(stream)
        assert (await refused(one.query(run_id, wait=0.3)))[0] == "CALL_TIMED_OUT"
        await answer(stream, "late")
        asked = asyncio.create_task(one.query(run_id))
        query = await stream.next("queries")
        forged = {"correlation": query.correlation, "result": payload("forged")}
        await other.say(answers=[QueryAnswer(ref=query.ref, **forged)])
        stale = workers_pb2.TaskRef(task_id=query.ref.task_id, token=query.ref.token - 1)
        await stream.say(answers=[QueryAnswer(ref=stale, **forged)])
        await other.settled()
        await stream.settled()
        assert not asked.done()
        await stream.say(answers=[QueryAnswer(correlation=query.correlation, ref=query.ref, result=payload("true"))])
        assert (await asked).result.json == '"true"'


async def test_a_stale_holder_s_answer_is_refused(one: Replica) -> None:
    """The run went to another worker after it was asked: only that one can answer."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(one.query(run_id, wait=10.0))
        query = await stream.next("queries")
        await stream.report(code.task.ref, release=workers_pb2.ReleaseTask(reason="test"))
        await stream.say(answers=[QueryAnswer(correlation=query.correlation, ref=query.ref, result=payload("stale"))])
        again = await stream.task(RUN)
        assert again.ref.token == code.task.ref.token + 1
        assert (await answer(stream, "fresh")).ref == again.ref
        assert (await asked).result.json == '"fresh"'


async def test_the_other_replica_s_worker_answers(two: Two) -> None:
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        await holding(stream)
        asked = asyncio.create_task(second.query(run_id, input=payload("x")))
        assert (await answer(stream, 42)).input.json == '"x"'
        told = await asked
        assert (told.result.json, told.live) == ("42", True)
    assert await until(lambda: rows(first), lambda found: not found) == 0


async def test_hints_among_replicas_may_get_lost(looks_often: None, two: Two) -> None:
    """The question and the answer are found by looking."""
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        await holding(stream)
        for each in two:
            each.service.dispatcher.pushes.start(None)
        asked = asyncio.create_task(second.query(run_id, wait=14.0))
        await answer(stream, 42)
        assert (await asked).result.json == "42"


async def test_a_session_that_another_replica_took_over_answers_there(two: Two) -> None:
    """What was asked on the old stream is asked again on the new one."""
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(first.query(run_id, wait=14.0))
        await stream.next("queries")
        opening = hello(session_id=stream.welcome.session_id, held=[code.task.ref], capacity=capacity(runs=1))
        again = await Wire(second, opening).open()
        await answer(again, 42)
        assert (await asked).result.json == "42"
        await again.cut()


async def test_a_run_without_a_stream_answers_by_what_it_published(one: Replica) -> None:
    """Nobody could ask a unary worker: the caller does not wait for it."""
    run_id = await one.start()
    opened = await one.workers.OpenSession(workers_pb2.OpenSessionRequest(hello=hello()))
    session_id = opened.welcome.session_id
    claim = workers_pb2.ClaimTasksRequest(session_id=session_id)
    (task,) = (await one.workers.ClaimTasks(claim)).tasks
    assert (await refused(one.query(run_id, wait=LONG)))[0] == "NOTHING_PUBLISHED"
    progress = workers_pb2.Progress(published={"progress": payload(3)})
    reports = [workers_pb2.Report(correlation=1, ref=task.ref, progress=progress)]
    request = workers_pb2.ReportTasksRequest(session_id=session_id, reports=reports)
    assert (await one.workers.ReportTasks(request)).results[0].status == ACCEPTED
    assert (await one.query(run_id, wait=LONG)).result.json == "3"


async def test_what_may_be_published_is_bounded(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        for field, published in (
            ("published['']", {"": payload(1)}),
            ("published['big']", {"big": types_pb2.Payload(data=bytes(64 * 1024 + 1))}),
        ):
            result = await code.tell(published=published)
            reason, facts = facts_of(result.error)
            assert reason == "INVALID_FIELD"
            assert field in facts["field"]
        assert (await code.tell(published={f"n{n}": payload(n) for n in range(16)})).status == ACCEPTED
        assert (await code.tell(published={"n3": payload("again")})).status == ACCEPTED
        reason, facts = facts_of((await code.tell(published={"more": payload(1)})).error)
        assert (reason, facts["limit"], facts["maximum"]) == ("LIMIT_EXCEEDED", "published_names", "16")
    assert (await one.query(run_id, "n3")).result.json == '"again"'


async def test_what_is_asked_is_looked_at_first(one: Replica) -> None:
    run_id = await one.start()
    for field, request in (
        ("query_name", {"name": ""}),
        ("query_name", {"name": "a\0b"}),
        ("query_name", {"name": "x" * 256}),
        ("input", {"input": types_pb2.Payload(data=bytes(2 * 1024 * 1024 + 1))}),
        ("wait", {"wait": -1.0}),
    ):
        reason, facts = await refused(one.query(run_id, **request))
        assert (reason, facts["field"]) == ("INVALID_FIELD", field)
    await one.namespace("apart")
    assert (await refused(one.query(run_id, namespace="apart")))[0] == "RUN_NOT_FOUND"


async def test_who_has_not_shown_that_it_has_the_run_is_not_asked(database_url: str) -> None:
    """What it is told before might overtake its assignment."""
    async with (
        replica(database_url, ack_seconds=9.0, session_seconds=10.0) as one,
        wire(one, capacity=capacity(runs=1)) as stream,
    ):
        run_id = await one.start()
        task = await stream.task(RUN, ack=False)
        early = (one.query(run_id, wait=0.1), one.update(run_id, "u0", wait=0.1))
        assert [reason for reason, _ in await asyncio.gather(*map(refused, early))] == [
            "NOTHING_PUBLISHED",
            "UPDATE_UNDECIDED",
        ]
        asked = asyncio.create_task(one.query(run_id))
        updated = asyncio.create_task(one.update(run_id, "u1"))
        await stream.ack(task)
        await answer(stream, 42)
        assert (await asked).result.json == "42"
        code = Code(stream, task)
        update = await told(code)
        assert update.update_id == "u1"
        await accept(code, update, 3)
        assert (await updated).result.json == "3"


async def test_a_replica_that_does_not_know_of_its_loss_answers_for_nobody(two: Two) -> None:
    """Its worker may be asked, since it does not know; what that says is not passed on."""
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        await holding(stream)
        asked = asyncio.create_task(refused(second.query(run_id, wait=2.0)))
        query = await stream.next("queries")
        async with second.service.dispatcher.reader.connection() as connection:
            await connection.raw.execute("UPDATE runs SET grants = grants + 1")
        await stream.say(answers=[QueryAnswer(correlation=query.correlation, ref=query.ref, result=payload("stale"))])
        assert (await asked)[0] == "CALL_TIMED_OUT"
