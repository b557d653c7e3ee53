"""Runs that continue as new while others talk to them: over real streams, two replicas and Postgres."""

from __future__ import annotations

import asyncio

from tests.service import refusal
from tests.stream.asking import accept, told
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN, SECONDS, Replica, capacity, payload, until
from tests.stream.wire import Wire, wire

from stepwell.v1 import runs_pb2, types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import Task

ON = workers_pb2.ContinueAsNew()


async def send(replica: Replica, n: int, request_id: str = "", **named: str) -> runs_pb2.SignalRunResponse:
    request = runs_pb2.SignalRunRequest(signal_name="s", payload=payload(n), request_id=request_id, **named)
    answer: runs_pb2.SignalRunResponse = await replica.runs.SignalRun(request, timeout=SECONDS)
    return answer


async def goes_on(stream: Wire, code: Code) -> Task:
    """Continues as new, and answers the task of the next run."""
    assert (await code.tell(continue_as_new=ON)).status == ACCEPTED
    stream.working.pop(code.task.ref.task_id, None)
    return await stream.task(RUN)


async def take(code: Code, count: int) -> list[str]:
    """Waits for so many signals, and answers what they carried."""
    taken: list[str] = []
    while len(taken) < count:
        steps = [code.wait_for("s") for _ in range(min(256, count - len(taken)))]
        result = await code.tell(*steps)
        assert result.status == ACCEPTED
        records = sorted(result.steps, key=lambda record: record.ordinal)
        assert len(records) == len(steps)
        taken += [record.result.json for record in records]
    return taken


async def test_signals_and_their_ids_go_along(one: Replica) -> None:
    """With what they carry; a repeat is told by its id, also of a signal that the first run took."""
    run_id = await one.start(workflow_id="w")
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        first = await send(one, 0, "zero", run_id=run_id)
        for n in (1, 2, 3):
            await send(one, n, f"id {n}", workflow_id="w")
        assert await take(code, 1) == ["0"]
        task = await goes_on(stream, code)
        assert task.run_id != run_id
        for request_id, named in (
            ("zero", {"workflow_id": "w"}),
            ("id 2", {"workflow_id": "w"}),
            ("id 3", {"run_id": run_id}),
        ):
            assert not (await send(one, 9, request_id, **named)).recorded
        assert (await send(one, 9, "zero", workflow_id="w")).signal_number == first.signal_number
        request = runs_pb2.SignalRunRequest(run_id=run_id, signal_name="s")
        assert await refusal(one.runs.SignalRun(request)) == ("FAILED_PRECONDITION", "SIGNAL_REFUSED")
        await send(one, 4, "id 4", workflow_id="w")
        assert await take(Code(stream, task), 4) == ["1", "2", "3", "4"]
    assert await one.count(task.run_id, "SignalReceived") == 4


async def test_more_than_a_batch_may_carry_goes_in_slices(one: Replica) -> None:
    """The next run is given to a worker once it has them all."""
    run_id = await one.start(workflow_id="w")
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        for start in range(0, 600, 200):
            signals = [
                runs_pb2.SignalRunRequest(run_id=run_id, signal_name="s", payload=payload(n), request_id=f"{n}")
                for n in range(start, start + 200)
            ]
            batch = runs_pb2.BatchSignalRunsRequest(requests=signals)
            results = (await one.runs.BatchSignalRuns(batch, timeout=SECONDS)).results
            assert all(result.signalled.recorded for result in results)
        task = await goes_on(stream, code)
        assert await take(Code(stream, task), 600) == [str(n) for n in range(600)]
    async with one.service.dispatcher.reader.connection() as connection:
        left = "SELECT count(*) FROM signals WHERE NOT consumed OR run_key <> (SELECT max(run_key) FROM runs)"
        assert await connection.raw.fetchval(left) == 0


async def test_nothing_sent_to_a_chain_is_lost_or_doubled(two: tuple[Replica, Replica]) -> None:
    """Senders on two replicas repeat each signal; the run continues all the while, and takes a few now and then."""
    senders, each, rounds = 8, 15, 12
    await two[0].start(workflow_id="w")
    taken: list[str] = []
    async with wire(two[0], capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))

        async def sender(number: int) -> None:
            for n in range(each):
                value = number * 1000 + n
                answers = await asyncio.gather(*(send(replica, value, f"{value}", workflow_id="w") for replica in two))
                assert sum(answer.recorded for answer in answers) == 1

        sending = asyncio.gather(*(sender(number) for number in range(senders)))
        for _ in range(rounds):
            result = await code.tell(code.wait_for("s"))
            if result.steps:
                taken.append(result.steps[0].result.json)
            else:
                (record,) = (await code.advance()).steps
                taken.append(record.result.json)
            code = Code(stream, await goes_on(stream, code))
        await sending
        taken += await take(code, senders * each - rounds)
    assert len(set(taken)) == len(taken) == senders * each
    for number in range(senders):
        own = [int(value) for value in taken if int(value) // 1000 == number]
        assert own == sorted(own)


async def test_a_request_to_cancel_goes_along(one: Replica) -> None:
    """The next run's task says so, and asking for it again is no news."""
    run_id = await one.start(workflow_id="w")
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await one.cancel(run_id, "enough")
        task = await goes_on(stream, code)
        assert (task.cancel_requested, task.cancel_reason) == (True, "enough")
        request = runs_pb2.CancelRunRequest(workflow_id="w", reason="again")
        assert not (await one.runs.CancelRun(request, timeout=SECONDS)).accepted
        details = workers_pb2.CancelledRun(details=payload("cleaned"))
        assert (await Code(stream, task).tell(cancelled=details)).status == ACCEPTED
    run = await until(lambda: one.run(task.run_id), lambda run: run.HasField("end_time"))
    assert (run.phase, run.cancel_request.reason) == (types_pb2.RUN_PHASE_CANCELLED, "enough")


async def test_an_update_goes_along_until_a_run_accepts_it(one: Replica) -> None:
    """Its caller named the first run, which went on as another twice; a repeat by that name finds what came of it."""
    run_id = await one.start(workflow_id="w")
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        asked = [asyncio.create_task(one.update(run_id, "u1")), asyncio.create_task(one.update(run_id, "u1"))]
        await told(code)
        for _ in range(2):
            code = Code(stream, await goes_on(stream, code))
        update = code.task.updates[0] if code.task.updates else await told(code)
        assert (update.update_id, update.name) == ("u1", "add")
        assert (await accept(code, update, 3)).status == ACCEPTED
        for answered in await asyncio.gather(*asked):
            assert (answered.run_id, answered.result.json) == (code.task.run_id, "3")
        for known in (run_id, code.task.run_id):
            again = await one.update(known, "u1")
            assert (again.run_id, again.result.json) == (code.task.run_id, "3")
        assert await one.count(code.task.run_id, "UpdateAccepted") == 1


async def test_an_accepted_update_stays_with_its_run(one: Replica) -> None:
    """What its run has recorded is what came of it, though another goes on."""
    run_id = await one.start(workflow_id="w")
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        asked = asyncio.create_task(one.update(run_id, "u1"))
        await accept(code, await told(code), 1)
        assert (await asked).run_id == run_id
        assert (await code.tell(continue_as_new=ON, calls=2)).status == ACCEPTED
        again = await one.update(run_id, "u1")
        assert (again.run_id, again.result.json) == (run_id, "1")
