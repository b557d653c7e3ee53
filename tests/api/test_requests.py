"""A request with an id: its repeat is answered as it was, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.api.repeated_calls import (
    METHODS,
    NO_DATA,
    OF_NO_RUN,
    OTHER,
    call,
    history,
    schedule,
    signalled,
    terminated,
)
from tests.api.stores import RUNNING, create, json, read, span
from tests.api.test_jobs import claim, fail
from tests.service import Service, refusal, serving

from stepwell.v1 import jobs_pb2, types_pb2
from stepwell_server.model.payloads import Failure

SAME_KEY = """
INSERT INTO requests SELECT 'r', namespace_id, method, body_hash, answer, request_time FROM requests
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
REUSED = ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest.mark.parametrize("method", METHODS)
async def test_a_repeat_is_answered_as_the_first_was(service: Service, method: str) -> None:
    """It changes nothing; the same id with another request is refused."""
    run_id = await create(service, workflow_id="w")
    fields = await METHODS[method](service, run_id)
    if method in NO_DATA:
        fields.pop("data")
    if method in OF_NO_RUN:
        fields.pop("run_id", None)
    run_id = fields.get("run_id", run_id)
    first = await call(service, method, request_id="r", **fields)
    recorded = await history(service, run_id)
    assert await call(service, method, request_id="r", **fields) == first
    changed = {**fields, **OTHER.get(method, {"token": 77})}
    assert await refusal(call(service, method, request_id="r", **changed)) == REUSED
    assert await history(service, run_id) == recorded


async def test_a_repeat_speaks_of_the_schedule_that_was_there_then(service: Service) -> None:
    """One that was deleted, and made anew since, is not deleted by a late repeat."""
    await schedule(service, "")
    assert (await call(service, "DeleteSchedule", name="nightly", request_id="r")).deleted
    await schedule(service, "")
    assert (await call(service, "DeleteSchedule", name="nightly", request_id="r")).deleted
    assert (await call(service, "GetSchedule", name="nightly")).schedule.name == "nightly"


async def test_a_repeated_retry_tells_what_it_told_and_begins_nothing(service: Service) -> None:
    """Also once the run has ended again, and when another request has mended it meanwhile."""
    fields = await terminated(service, "")
    first = await call(service, "RetryRun", request_id="r", **fields)
    await call(service, "TerminateRun", **fields)
    assert await call(service, "RetryRun", request_id="r", **fields) == first
    await call(service, "RetryRun", request_id="s", **fields)
    await call(service, "TerminateRun", **fields)
    assert await call(service, "RetryRun", request_id="r", **fields) == first
    assert (await service.get(fields["run_id"])).phase == types_pb2.RUN_PHASE_TERMINATED


async def test_a_repeated_steering_of_a_job_changes_nothing(service: Service) -> None:
    """A job that has failed again since is not begun anew by a late repeat."""
    job_id = (await call(service, "StartJob", type="t", retry={"maximum_attempts": 1})).job_id
    for attempt in range(2):
        await fail(service, await claim(service), Failure("boom"))
        begun = await call(service, "RetryJob", job_id=job_id, request_id=f"r{attempt}")
        assert begun.state == jobs_pb2.JOB_STATE_PENDING
    await fail(service, await claim(service), Failure("boom"))
    assert await call(service, "RetryJob", job_id=job_id, request_id="r0") == begun
    assert (await call(service, "GetJob", job_id=job_id)).job.retry_count == 2
    await call(service, "RetryJob", job_id=job_id)
    cancelled = await call(service, "CancelJob", job_id=job_id, request_id="c")
    assert cancelled.accepted
    assert await call(service, "CancelJob", job_id=job_id, request_id="c") == cancelled
    other = call(service, "CancelJob", job_id=job_id, request_id="c", reason="other")
    assert await refusal(other) == REUSED


# --- what it rests on -------------------------------------------------------------------------------------------------


async def test_of_many_repeats_at_once_one_changes_something(service: Service) -> None:
    """In one batch, over batches, and over replicas: they meet at the record's key."""
    run_ids = [await create(service) for _ in range(4)]
    async with serving(service.settings.database_url or "", committers=2) as other:
        for round_, run_id in enumerate(run_ids):
            repeats = [
                call(replica, "AppendEvent", run_id=run_id, type="Paid", request_id=f"r{round_}")
                for replica in (service, other)
                for _ in range(10)
            ]
            answers = {answer.number for answer in await asyncio.gather(*repeats)}
            assert answers == {2}
            assert await history(service, run_id) == ["RunStarted", "Paid"]


async def test_one_id_for_two_runs_on_two_replicas_is_reused(service: Service) -> None:
    """Neither batch sees what the other records: the second learns of it at the record's key, and decides once more."""
    before, one, two = [await create(service) for _ in range(3)]
    await call(service, "AppendEvent", run_id=before, type="Paid", request_id="before")
    async with serving(service.settings.database_url or "") as other:
        database = await service.database.connect()
        transaction = database.raw.transaction()
        await transaction.start()
        await database.raw.execute(SAME_KEY)
        calls = [
            asyncio.create_task(call(replica, "AppendEvent", run_id=run_id, type="Paid", request_id="r"))
            for replica, run_id in ((service, one), (other, two))
        ]
        while await database.raw.fetchval(WAITING) < 2:
            assert not any(task.done() for task in calls)
        await transaction.rollback()
        ends = await asyncio.gather(*(refusal(task) for task in calls), return_exceptions=True)
        await database.close()
    assert ends.count(REUSED) == 1
    assert sorted(map(len, [await history(service, one), await history(service, two)])) == [1, 2]


async def test_of_many_creations_at_once_one_makes_a_namespace(service: Service) -> None:
    async with serving(service.settings.database_url or "") as other:
        repeats = [call(replica, "CreateNamespace", namespace="ns", request_id="r") for replica in (service, other) * 5]
        times = {answer.namespace.create_time.ToNanoseconds() for answer in await asyncio.gather(*repeats)}
    assert len(times) == 1
    again = call(service, "CreateNamespace", namespace="ns")
    assert await refusal(again) == ("ALREADY_EXISTS", "NAMESPACE_EXISTS")


async def test_a_repeat_means_the_run_that_had_the_name_then(service: Service) -> None:
    """Else a late repeat would end a run that nobody spoke of."""
    first = await service.begin(workflow_id="w")
    ended = await call(service, "TerminateRun", workflow_id="w", request_id="r")
    second = await service.begin(workflow_id="w")
    again = await call(service, "TerminateRun", workflow_id="w", request_id="r")
    assert (again, again.run_id) == (ended, first)
    assert (await service.get(second)).phase == types_pb2.RUN_PHASE_PENDING


async def test_an_answer_of_no_is_kept_too(service: Service) -> None:
    """What was in vain then stays in vain, whatever has become of the run meanwhile."""
    run_id = await service.begin()
    await call(service, "PauseRun", run_id=run_id)
    assert not (await call(service, "PauseRun", run_id=run_id, request_id="r")).accepted
    await call(service, "ResumeRun", run_id=run_id)
    assert not (await call(service, "PauseRun", run_id=run_id, request_id="r")).accepted
    assert not (await service.get(run_id)).HasField("pause")


async def test_a_refusal_is_not_kept(service: Service) -> None:
    """It has changed nothing: the repeat is decided anew."""
    unknown = call(service, "AppendEvent", workflow_id="w", type="Paid", request_id="r")
    assert await refusal(unknown) == ("NOT_FOUND", "RUN_NOT_FOUND")
    run_id = await create(service, workflow_id="w")
    claim = await call(service, "ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(60))
    held = call(service, "AppendEvent", workflow_id="w", type="Paid", request_id="r")
    assert await refusal(held) == ("FAILED_PRECONDITION", "LEASE_LOST")
    await call(service, "ReleaseRun", run_id=run_id, owner_id="a", token=claim.token)
    assert (await call(service, "AppendEvent", workflow_id="w", type="Paid", request_id="r")).number == 2


async def test_an_id_is_of_one_namespace_and_method(service: Service) -> None:
    await call(service, "CreateNamespace", namespace="ns", request_id="r")
    run_id = await create(service)
    elsewhere = await create(service, namespace="ns")
    assert (await call(service, "AppendEvent", run_id=run_id, type="a", request_id="r")).number == 2
    there = await call(service, "AppendEvent", namespace="ns", run_id=elsewhere, type="b", request_id="r")
    assert there.number == 2
    assert (await call(service, "MarkRunFailed", run_id=run_id, request_id="r")).phase == RUNNING
    # A namespace is the same whether it is named or left out.
    named = await call(service, "AppendEvent", namespace="main", run_id=run_id, type="a", request_id="r")
    assert named.number == 2
    begun = await call(service, "BeginStep", run_id=run_id, step_name="s")
    done = {"step_number": begun.step.number, "namespace": "-", "request_id": "r"}
    assert await call(service, "CompleteStep", **done) == await call(service, "CompleteStep", **done)


async def test_signals_that_were_taken_are_answered_again(service: Service) -> None:
    """The first answer was lost: they are not. What came since waits for a request of its own."""
    run_id = await create(service, workflow_id="w")
    fields = await signalled(service, run_id)
    first = await call(service, "ConsumeSignals", request_id="r", **fields)
    assert ([signal.payload.json for signal in first.signals], first.has_more) == (["0", "1"], False)
    await call(service, "SendSignal", run_id=run_id, signal_name="s", payload=json("2"))
    again = await call(service, "ConsumeSignals", request_id="r", **fields)
    assert (list(again.signals), again.has_more) == (list(first.signals), True)
    rest = await call(service, "ConsumeSignals", request_id="r2", **fields)
    assert [signal.payload.json for signal in rest.signals] == ["2"]
    empty = [await call(service, "ConsumeSignals", request_id="r3", **fields) for _ in range(2)]
    assert [len(each.signals) for each in empty] == [0, 0]


async def test_a_signal_keeps_its_own_id(service: Service) -> None:
    """Recorded once per run, and told so."""
    run_id = await create(service)
    sent = {"run_id": run_id, "signal_name": "s", "request_id": "r"}
    assert [(await call(service, "SendSignal", **sent)).recorded for _ in range(2)] == [True, False]


async def test_without_an_id_nothing_is_recognised(service: Service) -> None:
    run_id = await create(service)
    numbers = [(await call(service, "AppendEvent", run_id=run_id, type="Paid")).number for _ in range(2)]
    assert numbers == [2, 3]
    assert (await read(service, run_id)).event_count == 3


@pytest.mark.parametrize("request_id", ["a\0", "x" * 256])
async def test_a_wrong_id_is_refused(service: Service, request_id: str) -> None:
    run_id = await create(service)
    for method, fields in (
        ("AppendEvent", {"run_id": run_id, "type": "t"}),
        ("CancelRun", {"run_id": run_id}),
        ("CreateNamespace", {"namespace": "ns"}),
    ):
        refused = call(service, method, request_id=request_id, **fields)
        assert await refusal(refused) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await history(service, run_id) == ["RunStarted"]
