"""Runs that follow a definition: named in every way, shown, listed, and in the way of its deletion."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest_asyncio
from tests.api.stores import Store
from tests.api.test_definitions import call
from tests.api.test_definitions import create as define
from tests.service import TIMEOUT, Holder, Service, refusal, serving, soon

from stepwell.v1 import namespaces_pb2, retention_pb2, runs_pb2, schedules_pb2
from stepwell_server.engine.reported import Successor
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
DANGLING = "SELECT count(*) FROM run_definitions LEFT JOIN definitions USING (definition_key) WHERE code IS NULL"
NOT_FOUND = ("NOT_FOUND", "DEFINITION_NOT_FOUND")
IN_USE = ("FAILED_PRECONDITION", "DEFINITION_IN_USE")


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def raw(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another connection, on which a test does what another replica would."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    yield connection
    await connection.close()


async def create(service: Service, **fields: Any) -> str:
    return str((await Store(service, "run").call("CreateRun", **fields)).run_id)


async def listed(service: Service, **definition: Any) -> list[str]:
    request = runs_pb2.ListRunsRequest(definition=definition)  # type: ignore[arg-type]
    return [run.run_id for run in (await service.runs.ListRuns(request, timeout=TIMEOUT)).runs]


async def test_a_run_shows_what_it_follows(service: Service) -> None:
    """The latest active version, unless another is named; active or not."""
    made = [await define(service, version=version, active=version != 3) for version in (1, 2, 3)]
    by_code = await service.begin(type="", definition={"code": "order"})
    by_version = await service.begin(type="own", definition={"code": "order", "version": 1})
    by_id = await create(service, definition={"definition_id": made[2].definition_id})
    shown = [await service.get(run_id) for run_id in (by_code, by_version, by_id)]
    assert [(run.type, run.definition.code, run.definition.version) for run in shown] == [
        ("order", "order", 2),
        ("own", "order", 1),
        ("order", "order", 3),
    ]
    expected = [made[version - 1].definition_id for version in (2, 1, 3)]
    assert [run.definition.definition_id for run in shown] == expected
    assert not (await service.get(await service.begin())).HasField("definition")


async def test_what_is_not_there_is_not_followed(service: Service) -> None:
    made = await define(service, active=False)
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    await define(service, "theirs", namespace="other")
    for named in (
        {"code": "order"},
        {"code": "order", "version": 2},
        {"code": "theirs"},
        {"definition_id": str(uuid.uuid4())},
        {"definition_id": made.definition_id, "version": 2},
    ):
        assert await refusal(service.begin(definition=named)) == NOT_FOUND
        assert await refusal(create(service, type="t", definition=named)) == NOT_FOUND
    for bad in ({"code": "x" * 256}, {"version": 1}, {"definition_id": "1"}, {"code": "order", "version": -1}):
        assert await refusal(service.begin(definition=bad)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await listed(service, code="order") == []


async def test_a_batch_of_starts_finds_each_its_own(service: Service) -> None:
    for code in ("a", "b"):
        await define(service, code)
    starts = [{"definition": {"code": code}} for code in ("a", "b", "c", "a")]
    request = runs_pb2.BatchStartRunsRequest(requests=starts)  # type: ignore[arg-type]
    results = (await service.runs.BatchStartRuns(request, timeout=TIMEOUT)).results
    assert [each.WhichOneof("outcome") for each in results] == ["started", "started", "error", "started"]
    assert set(await listed(service, code="a")) == {results[0].started.run_id, results[3].started.run_id}


async def test_a_repeated_start_finds_its_run_though_the_latest_is_another(service: Service) -> None:
    await define(service)
    fields: dict[str, Any] = {"type": "", "definition": {"code": "order"}, "request_id": "r"}
    run_id = await service.begin(**fields)
    await define(service)
    assert await service.begin(**fields) == run_id
    assert (await service.get(run_id)).definition.version == 1


async def test_runs_are_listed_by_definition(service: Service) -> None:
    """Open and ended, of one version or of all, newest first, by pages."""
    for version in (1, 2):
        await define(service, version=version)
    await define(service, "other")
    runs = [await service.begin(definition={"code": "order", "version": 1 + place % 2}) for place in range(6)]
    await service.begin(definition={"code": "other"})
    for run_id in runs[:3]:
        await service.end(run_id)
    assert await listed(service, code="order") == runs[::-1]
    assert await listed(service, code="order", version=1) == runs[4::-2]
    assert await listed(service, code="unknown") == []
    request = runs_pb2.ListRunsRequest(definition={"code": "order", "version": 2}, page_size=2)  # type: ignore[arg-type]
    first = await service.runs.ListRuns(request, timeout=TIMEOUT)
    request.page_token = first.next_page_token
    rest = await service.runs.ListRuns(request, timeout=TIMEOUT)
    assert [run.run_id for run in (*first.runs, *rest.runs)] == runs[5::-2]


async def test_a_run_that_continues_another_follows_the_same(service: Service) -> None:
    await define(service)
    run_id = await service.begin(definition={"code": "order"}, task_queue="q")
    holder = await Holder.of(service, "q")
    await holder.end(Phase.COMPLETED, successor=Successor(NULL))
    successor = (await service.get(run_id)).continued_run_id
    assert (await service.get(successor)).definition.code == "order"
    assert await listed(service, code="order") == [successor, run_id]


async def test_a_schedule_s_runs_follow_it(service: Service) -> None:
    await define(service)
    run: dict[str, Any] = {"type": "t", "definition": {"code": "order", "version": 1}}
    made = schedules_pb2.CreateScheduleRequest(schedule={"name": "s", "spec": {"cron": "@daily"}, "run": run})  # type: ignore[arg-type]
    assert (await service.schedules.CreateSchedule(made, timeout=TIMEOUT)).schedule.run.definition.version == 1
    fired = await service.schedules.TriggerSchedule(schedules_pb2.TriggerScheduleRequest(name="s"), timeout=TIMEOUT)
    assert (await service.get(fired.run_id)).definition.code == "order"


async def test_what_a_run_follows_is_not_deleted_until_the_run_is(service: Service, raw: asyncpg.Connection) -> None:
    for version in (1, 2):
        await define(service, version=version)
    run_id = await service.begin(definition={"code": "order", "version": 1})
    for named in ({"code": "order", "version": 1}, {"code": "order"}):
        assert await refusal(call(service, "DeleteDefinition", **named)) == IN_USE
    assert (await call(service, "DeleteDefinition", code="order", version=2)).deleted_count == 1
    await service.end(run_id)
    assert await refusal(call(service, "DeleteDefinition", code="order")) == IN_USE
    await service.retention.DeleteRun(retention_pb2.DeleteRunRequest(run_id=run_id), timeout=TIMEOUT)
    assert (await call(service, "DeleteDefinition", code="order")).deleted_count == 1
    assert await raw.fetchval("SELECT count(*) FROM run_definitions") == 0


async def test_a_start_waits_for_a_deletion_that_is_under_way(service: Service, raw: asyncpg.Connection) -> None:
    """And finds nothing to follow when that is done."""
    await define(service)
    deletion = raw.transaction()
    await deletion.start()
    await raw.execute("SELECT FROM definitions FOR UPDATE")
    start = asyncio.ensure_future(refusal(service.begin(definition={"code": "order"})))
    other = await service.begin()
    assert not start.done(), "what follows nothing is not held up, and what does is"
    assert (await service.get(other)).run_id == other
    await raw.execute("DELETE FROM definitions")
    await deletion.commit()
    assert await start == NOT_FOUND
    assert await raw.fetchval(DANGLING) == 0


async def test_a_deletion_waits_for_a_start_that_is_under_way(service: Service, raw: asyncpg.Connection) -> None:
    """And sees what it has begun."""
    await define(service)
    start = raw.transaction()
    await start.start()
    key = await raw.fetchval("SELECT definition_key FROM definitions FOR KEY SHARE")
    await raw.execute("INSERT INTO run_definitions VALUES (17, $1)", key)
    deletion = asyncio.ensure_future(refusal(call(service, "DeleteDefinition", code="order")))

    async def waits() -> bool:
        return bool(await raw.fetchval(WAITING))

    await soon(waits)
    await start.commit()
    assert await deletion == IN_USE
    assert await raw.fetchval(DANGLING) == 0


async def test_starts_and_deletions_at_once_leave_nothing_dangling(
    service: Service, raw: asyncpg.Connection, database_url: str
) -> None:
    """Over two replicas: a definition is followed, or it is gone."""
    codes = [f"c{number}" for number in range(24)]
    async with serving(database_url) as other:
        for code in codes:
            await define(service, code)
        starts = [create(other, type="t", definition={"code": code}) for code in codes]
        deletions = [call(service, "DeleteDefinition", code=code) for code in codes]
        answers: list[Any] = await asyncio.gather(*starts, *deletions, return_exceptions=True)
    started = [not isinstance(answer, Exception) for answer in answers[: len(codes)]]
    deleted = [not isinstance(answer, Exception) for answer in answers[len(codes) :]]
    assert [not each for each in started] == deleted
    assert await raw.fetchval(DANGLING) == 0
