"""Updates: told to whoever holds the run, accepted and answered by what is recorded."""

from __future__ import annotations

import asyncio

import pytest
from tests.stream.asking import LONG, accept, facts_of, holding, refused, reject, rows, told
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, DUPLICATE, REFUSED, RUN, Replica, capacity, hello, payload, until
from tests.stream.wire import wire

from stepwell.v1 import runs_pb2, types_pb2, workers_pb2

STAGE = runs_pb2.UpdateStage


async def test_a_waiting_run_is_told_and_its_outcome_is_answered_once_recorded(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(one.update(run_id, "u1", input=payload([1, 2])))
        update = await told(code)
        assert (update.update_id, update.name, update.input.json) == ("u1", "add", "[1, 2]")
        assert (await accept(code, update)).status == ACCEPTED
        assert not asked.done()
        assert (await code.wait(code.outcome("u1", 3))).status == ACCEPTED
        answered = await asked
        assert (answered.run_id, answered.update_id) == (run_id, "u1")
        assert (answered.stage, answered.result.json) == (STAGE.UPDATE_STAGE_COMPLETED, "3")
    steps = [(event.type, event.attributes.get("update_id")) for event in await one.events(run_id)][-2:]
    assert steps == [("UpdateAccepted", "u1"), ("UpdateCompleted", "u1")]
    assert await rows(one) == 0


async def test_who_waits_for_the_acceptance_hears_of_it(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(one.update(run_id, "u1", wait_for=STAGE.UPDATE_STAGE_ACCEPTED))
        await accept(code, await told(code))
        answered = await asked
        assert (answered.stage, answered.WhichOneof("outcome")) == (STAGE.UPDATE_STAGE_ACCEPTED, None)
        reason, facts = await refused(one.update(run_id, "u1", wait=0.3))
        assert (reason, facts["stage"]) == ("UPDATE_UNDECIDED", "ACCEPTED")


async def test_a_failure_after_acceptance_is_recorded_and_told(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(one.update(run_id, "u1"))
        failure = types_pb2.Failure(type="Empty", message="no stock")
        await code.wait(code.accept(await told(code)), code.outcome("u1", failure=failure))
        answered = await asked
        assert (answered.stage, answered.failure.type) == (STAGE.UPDATE_STAGE_COMPLETED, "Empty")
        assert (await one.update(run_id, "u1")).failure.message == "no stock"


async def test_a_rejection_records_nothing_and_may_be_followed_by_acceptance(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        events = len(await one.events(run_id))
        asked = asyncio.create_task(one.update(run_id, "u1"))
        assert (await reject(code, await told(code))).status == ACCEPTED
        answered = await asked
        assert (answered.stage, answered.rejection.type) == (STAGE.UPDATE_STAGE_UNSPECIFIED, "ValueError")
        assert len(await one.events(run_id)) == events
        asked = asyncio.create_task(one.update(run_id, "u1"))
        await accept(code, await told(code), "yes")
        assert (await asked).result.json == '"yes"'


async def test_a_repeat_finds_what_was_recorded(one: Replica) -> None:
    """Also after the run's end; it is told to nobody again."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        both = [asyncio.create_task(one.update(run_id, "u1")) for _ in range(2)]
        first, second = [await told(code) for _ in both]
        assert first == second
        await accept(code, first, 3)
        assert [(await each).result.json for each in both] == ["3", "3"]
        assert (await one.update(run_id, "u1")).result.json == "3"
        assert (await refused(one.update(run_id, "u1", update_name="other")))[0] == "REQUEST_ID_REUSED"
        await stream.settled()
        assert not stream.got.get("advances")
        await one.end(run_id)
    assert (await one.update(run_id, "u1")).result.json == "3"
    assert (await refused(one.update(run_id, "u2")))[0] == "RUN_TERMINAL"


async def test_a_run_that_nobody_holds_becomes_due_and_is_assigned_with_its_updates(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1, resident=0)) as stream:
        code = await holding(stream)
        await stream.next("revokes")
        asked = [asyncio.create_task(one.update(run_id, f"u{number}")) for number in range(2)]
        task = await stream.task(RUN)
        seen = {update.update_id for update in task.updates}
        assert seen
        again = Code(stream, task)
        again.count, again.hash = code.count, code.hash
        if len(seen) < 2:
            # The second may have come after the assignment went out.
            seen |= {(await told(again)).update_id}
        assert seen == {"u0", "u1"}
        updates = [workers_pb2.Update(update_id=each, name="add") for each in ("u0", "u1")]
        steps = [
            step for each in updates for step in (again.accept(each), again.outcome(each.update_id, each.update_id))
        ]
        assert (await again.tell(*steps)).status == ACCEPTED
        assert [(await each).result.json for each in asked] == ['"u0"', '"u1"']
    await until(lambda: rows(one), lambda found: not found)


async def test_a_worker_that_dies_before_the_record_leaves_the_update_to_the_next(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, "dying", is_lively=False, capacity=capacity(runs=1)) as dying:
        code = await holding(dying)
        asked = asyncio.create_task(one.update(run_id, "u1", wait=LONG))
        await told(code)
        await dying.cut()
    async with wire(one, "next", capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        again = Code(stream, task)
        again.progress(again.wait_for("go"))
        update = task.updates[0] if task.updates else await told(again)
        await accept(again, update, "by the next")
        assert (await asked).result.json == '"by the next"'
    assert await one.count(run_id, "UpdateAccepted") == 1


async def test_a_stale_holder_accepts_nothing(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, "frozen", is_lively=False, capacity=capacity(runs=1)) as frozen:
        code = await holding(frozen)
        asked = asyncio.create_task(one.update(run_id, "u1", wait=LONG))
        update = await told(code)
        async with wire(one, "next", capacity=capacity(runs=1)) as stream:
            task = await stream.task(RUN)
            assert task.ref.token == code.task.ref.token + 1
            late = code.progress(code.accept(update), code.outcome("u1", "stale"), waiting=True)
            reports = [workers_pb2.Report(correlation=99, ref=code.task.ref, progress=late)]
            request = workers_pb2.ReportTasksRequest(session_id=stream.welcome.session_id, reports=reports)
            (result,) = (await one.workers.ReportTasks(request)).results
            assert (result.status, facts_of(result.error)[0]) == (REFUSED, "LEASE_LOST")
            again = Code(stream, task)
            again.progress(again.wait_for("go"))
            update = task.updates[0] if task.updates else await told(again)
            await reject(again, update)
            assert (await asked).rejection.type == "ValueError"


async def test_time_that_is_over_says_that_it_may_happen_yet(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        reason, facts = await refused(one.update(run_id, "u1", wait=0.3))
        assert (reason, facts) == (
            "UPDATE_UNDECIDED",
            {"run_id": run_id, "update_id": "u1", "stage": "NONE"},
        )
        await accept(code, await told(code), 3)
        assert (await one.update(run_id, "u1")).result.json == "3"


async def test_the_end_of_the_run_ends_the_waiting(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(refused(one.update(run_id, "u1")))
        accepted = asyncio.create_task(refused(one.update(run_id, "u2")))
        updates = {update.update_id: update for update in [await told(code), await told(code)]}
        await accept(code, updates["u2"])
        await one.end(run_id)
        assert await asked == ("RUN_TERMINAL", {"run_id": run_id, "phase": "TERMINATED"})
        assert (await accepted)[0] == "RUN_TERMINAL"


async def test_a_paused_run_and_a_driven_one_take_no_update(one: Replica) -> None:
    run_id = await one.start()
    await one.runs.PauseRun(runs_pb2.PauseRunRequest(run_id=run_id, reason="look"))
    reason, facts = await refused(one.update(run_id))
    assert (reason, facts["pause_reason"]) == ("RUN_PAUSED", "look")
    async with one.service.dispatcher.reader.connection() as connection:
        await connection.raw.execute("UPDATE runs SET driven = TRUE, pause_reason = NULL")
    assert (await refused(one.update(run_id)))[0] == "RUN_DRIVEN"
    assert await rows(one) == 0


async def test_an_update_takes_a_slot_or_evicts(one: Replica) -> None:
    """It is news like any other: without a slot within a second the run goes to any worker."""
    run_id = await one.start()
    async with wire(one, "full", capacity=capacity(runs=1)) as full:
        code = await holding(full, run_id)
        other = await one.start()
        await full.task(RUN, run_id=other)
        asked = asyncio.create_task(one.update(run_id, "u1", wait=LONG))
        assert (await full.next("revokes")).reason == "EVICTED"
        async with wire(one, "free", capacity=capacity(runs=1)) as free:
            task = await free.task(RUN, run_id=run_id)
            again = Code(free, task)
            again.count, again.hash = code.count, code.hash
            await accept(again, task.updates[0] if task.updates else await told(again), 1)
            assert (await asked).stage == STAGE.UPDATE_STAGE_COMPLETED


async def test_the_record_of_a_replay_tells_all_of_an_update(one: Replica) -> None:
    """Name, input, place and outcome: what a replay begins it again with."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1, resident=0)) as stream:
        code = await holding(stream, waits=False)
        update = workers_pb2.Update(update_id="u1", name="add", input=payload(5))
        steps = (code.wait_for("go"), code.accept(update), code.outcome("u1", 6))
        assert (await code.wait(*steps)).status == ACCEPTED
        await one.signal(run_id, "go")
        task = await stream.task(RUN)
        _, accepted, outcome = task.steps
        assert (accepted.scope, accepted.name, accepted.key) == ("0", "__update", "u1")
        assert (accepted.update_name, accepted.place, accepted.result.json) == ("add", 1, "5")
        assert (outcome.scope, outcome.name, outcome.key, outcome.result.json) == ("0", "__outcome", "u1", "6")
        shown = (await one.runs.ListRunSteps(runs_pb2.ListRunStepsRequest(run_id=run_id))).steps[1]
        assert (shown.type, shown.key) == ("add", "u1")


async def test_updates_have_an_order_of_their_own(one: Replica) -> None:
    """However they interleave with the run's own line; a repeated progress is recognised, a changed one found."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        updates = [workers_pb2.Update(update_id=f"u{n}", name="add") for n in range(3)]
        told_twice = code.progress(code.accept(updates[0]), code.local(1), code.accept(updates[1]))
        assert (await stream.report(code.task.ref, progress=told_twice)).status == ACCEPTED
        assert (await stream.report(code.task.ref, progress=told_twice)).status == DUPLICATE
        steps = (code.outcome("u1", 1), code.local(2), code.accept(updates[2]), code.outcome("u0", 1))
        assert (await code.tell(*steps)).status == ACCEPTED
        code.updates.count = 0
        result = await code.tell(code.outcome("u2", 1))
        assert (result.status, facts_of(result.error)[0]) == (REFUSED, "STEP_ORDER_CHANGED")
    assert (await one.run(run_id)).pause.reason == "ORDER_CHANGED"


@pytest.mark.parametrize(
    ("field", "step"),
    [
        ("steps[0].key", {"scope": "0", "name": "__update", "acceptance": {"update_name": "add"}}),
        ("steps[0].key", {"scope": "1", "name": "__update", "key": "u", "acceptance": {"update_name": "add"}}),
        ("steps[0].key", {"scope": "0", "name": "add", "key": "u", "acceptance": {"update_name": "add"}}),
        ("steps[0].key", {"scope": "0", "name": "__update", "key": "u", "outcome": {}}),
        ("steps[0].key", {"scope": "0", "name": "__outcome", "key": "u", "occurrence": 1, "outcome": {}}),
        ("steps[0].acceptance.update_name", {"scope": "0", "name": "__update", "key": "u", "acceptance": {}}),
        ("steps[0].scope", {"scope": "0", "name": "mine", "marker": {}}),
        ("steps[0].scope", {"scope": "0/0", "name": "mine", "marker": {}}),
        ("steps[0].scope", {"scope": "0/1/1/1/1/1/1/1/1", "name": "mine", "marker": {}}),
        ("steps", {"scope": "0", "name": "__outcome", "key": "u", "outcome": {}}),
    ],
)
async def test_the_scope_of_updates_is_kept_clean(one: Replica, field: str, step: dict[str, object]) -> None:
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        new = workers_pb2.NewStep(**step)  # type: ignore[arg-type]
        scopes = [workers_pb2.ScopeState(scope=new.scope if len(new.scope) < 10 else "", hash=bytes(8))]
        if new.scope == "0/0":
            scopes = []
        result = await stream.report(task.ref, progress=workers_pb2.Progress(scopes=scopes, steps=[new]))
        reason, facts = facts_of(result.error)
        assert reason == "INVALID_FIELD"
        assert facts["field"].endswith(field)


async def test_a_unary_worker_gets_updates_with_its_next_claim(one: Replica) -> None:
    run_id = await one.start()
    opened = await one.workers.OpenSession(workers_pb2.OpenSessionRequest(hello=hello()))
    session_id = opened.welcome.session_id
    claim = workers_pb2.ClaimTasksRequest(session_id=session_id)
    claim.wait.FromSeconds(10)
    (task,) = (await one.workers.ClaimTasks(claim)).tasks
    asked = asyncio.create_task(one.update(run_id, "u1", wait=LONG))
    await until(lambda: rows(one), lambda found: found == 1)
    await until(lambda: called(one))
    waits = workers_pb2.Progress(waiting=True)

    async def report(ref: workers_pb2.TaskRef, progress: workers_pb2.Progress) -> None:
        reports = [workers_pb2.Report(correlation=1, ref=ref, progress=progress)]
        request = workers_pb2.ReportTasksRequest(session_id=session_id, reports=reports)
        assert (await one.workers.ReportTasks(request)).results[0].status == ACCEPTED

    await report(task.ref, waits)
    (task,) = (await one.workers.ClaimTasks(claim)).tasks
    (update,) = task.updates
    code = Code(None, task)  # type: ignore[arg-type]
    await report(task.ref, code.progress(code.accept(update), code.outcome("u1", 3), waiting=True))
    assert (await asked).result.json == "3"


async def called(replica: Replica) -> bool:
    """Whether the run knows that it was called."""
    async with replica.service.dispatcher.reader.connection() as connection:
        return bool(await connection.raw.fetchval("SELECT count(*) FROM runs WHERE dirty"))


async def test_what_is_asked_is_looked_at_first(one: Replica) -> None:
    run_id = await one.start()
    for field, request in (
        ("update_name", {"update_name": ""}),
        ("update_name", {"update_name": "a\0b"}),
        ("update_id", {"update_id": "x" * 256}),
        ("input", {"input": types_pb2.Payload(data=bytes(2 * 1024 * 1024 + 1))}),
        ("wait_for", {"wait_for": 7}),
        ("wait", {"wait": -1.0}),
    ):
        reason, facts = await refused(one.update(run_id, **request))
        assert (reason, facts["field"]) == ("INVALID_FIELD", field)
    await one.namespace("apart")
    assert (await refused(one.update(run_id, namespace="apart")))[0] == "RUN_NOT_FOUND"
    assert await rows(one) == 0
