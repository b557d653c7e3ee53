"""Runs of which only an id and a name are left, as after their partitions were dropped: no call stumbles over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import Store
from tests.engine.replica import look
from tests.service import Service, refusal, serving

from stepwell.v1 import history_pb2, runs_pb2, types_pb2

REJECT = runs_pb2.WORKFLOW_ID_REUSE_POLICY_REJECT
TABLES = ("closed_runs", "closed_steps", "events", "signals")


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


async def remove(service: Service, run_id: str) -> None:
    """Takes away what lies in partitions."""
    async with look(service.settings.database_url or "") as database:
        key = await database.value("SELECT run_key FROM run_ids WHERE run_id = $1", run_id)
        for table in TABLES:
            await database.rows(f"DELETE FROM {table} WHERE run_key = $1", key)  # noqa: S608 - ours


async def removed(service: Service, **fields: Any) -> str:
    """The id of a run that was there once."""
    run_id = await service.begin(**fields)
    await service.end(run_id)
    await remove(service, run_id)
    return run_id


@pytest.mark.parametrize("name", ["run_id", "workflow_id"])
async def test_what_names_a_removed_run_finds_none(service: Service, name: str) -> None:
    given: dict[str, Any] = {name: {"run_id": await removed(service, workflow_id="w"), "workflow_id": "w"}[name]}
    runs, driven = service.runs, Store(service, "run")
    calls = {
        "get": runs.GetRun(runs_pb2.GetRunRequest(**given)),
        "wait": runs.WaitRun(runs_pb2.WaitRunRequest(**given)),
        "signal": runs.SignalRun(runs_pb2.SignalRunRequest(signal_name="s", **given)),
        "cancel": runs.CancelRun(runs_pb2.CancelRunRequest(**given)),
        "terminate": runs.TerminateRun(runs_pb2.TerminateRunRequest(**given)),
        "pause": runs.PauseRun(runs_pb2.PauseRunRequest(**given)),
        "steps": runs.ListRunSteps(runs_pb2.ListRunStepsRequest(**given)),
        "history": service.history.ListEvents(history_pb2.ListEventsRequest(**given)),
        "claim": driven.call("ClaimRun", owner_id="o", **given),
        "mark": driven.call("MarkRunRunning", **given),
        "rewind": driven.call("RewindToStep", step_name="s", **given),
    }
    heard = {name: await refusal(call) for name, call in calls.items()}
    assert heard == dict.fromkeys(calls, ("NOT_FOUND", "RUN_NOT_FOUND"))
    assert not (await driven.call("ReadRun", **given)).found


@pytest.mark.parametrize("reuse", [0, REJECT, runs_pb2.WORKFLOW_ID_REUSE_POLICY_ALLOW_IF_FAILED])
@pytest.mark.parametrize("signal", [False, True])
async def test_the_name_of_a_removed_run_is_free(service: Service, reuse: Any, signal: bool) -> None:
    await removed(service, workflow_id="w")
    start = runs_pb2.StartRunRequest(type="t", workflow_id="w", reuse_policy=reuse)
    if signal:
        request = runs_pb2.SignalWithStartRunRequest(start=start, signal_name="s")
        answer = await service.runs.SignalWithStartRun(request)
    else:
        answer = await service.runs.StartRun(start)
    assert answer.started
    found = (await service.runs.GetRun(runs_pb2.GetRunRequest(workflow_id="w"))).run
    assert (found.run_id, found.phase) == (answer.run_id, types_pb2.RUN_PHASE_PENDING)


async def test_the_name_of_a_removed_run_is_given_once(service: Service) -> None:
    """Two replicas that both find it free: one gets it."""
    await removed(service, workflow_id="w")
    async with serving(service.settings.database_url or "") as other:
        calls = [
            each.runs.StartRun(runs_pb2.StartRunRequest(type="t", workflow_id="w"))
            for each in (service, other, service, other)
        ]
        reasons = [reason for call in calls for reason in [await told(call)] if reason]
        assert reasons == ["WORKFLOW_ID_IN_USE"] * 3


async def told(call: Any) -> str:
    """Why a call is refused, if it is."""
    try:
        await call
    except Exception:  # noqa: BLE001 - looked at closely
        return (await refusal(call))[1]
    return ""


async def test_the_id_of_a_removed_run_stays_taken(service: Service) -> None:
    """A repeat of its start is recognised, and starts nothing; another start may not have it."""
    request = runs_pb2.StartRunRequest(type="t", request_id="once")
    run_id = await removed(service, request_id="once")
    repeat = await service.runs.StartRun(request)
    assert (repeat.run_id, repeat.started) == (run_id, False)
    again = service.runs.StartRun(runs_pb2.StartRunRequest(type="t", run_id=run_id))
    assert await refusal(again) == ("ALREADY_EXISTS", "RUN_EXISTS")


async def test_what_refers_to_a_removed_run_is_shown(service: Service) -> None:
    """A child whose parent is gone."""
    driven = Store(service, "run")
    parent = (await driven.call("CreateRun", type="t", workflow_id="parent")).run_id
    child = (await driven.call("CreateRun", type="t", parent_run_id=parent)).run_id
    await driven.call("MarkRunFailed", run_id=parent, terminal=True)
    await remove(service, parent)
    found = await service.get(child)
    assert found.run_id == child
    await service.end(child)
    assert (await service.get(child)).phase == types_pb2.RUN_PHASE_TERMINATED
