"""Another tenant's ids, on every RPC: who has them learns no more than who made them up, and changes nothing.

Every method is called with a request that is good in `main`, by a key of another namespace and in that namespace; then
with the same request about ids of nothing. Both are told the same.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.hostile.methods import Method, methods
from tests.hostile.tenants import (
    IDS,
    NOT_IDS,
    NUMBERS,
    OPAQUE,
    QUEUES,
    ROWS,
    SCALARS,
    TEXTS,
    UUIDS,
    Tenants,
    absent,
    of_thief,
    put,
    tenants,
    without_ids,
)
from tests.hostile.test_page_tokens import forged

from stepwell.v1 import types_pb2
from stepwell_server.embedded import create_database
from stepwell_server.model.api_keys import Role

METHODS = {method.name: method for method in methods()}
SERVICES = sorted({method.service for method in METHODS.values()} - {"ClockService"})
# What is an admin's is nobody's else: told so before anything is looked for.
DENIED = ("PERMISSION_DENIED", "ROLE_DENIED")
REPEATED = [method for method in METHODS.values() if "request_id" in method.fields]
PAGED = [method for method in METHODS.values() if "page_token" in method.fields]


@pytest_asyncio.fixture(scope="module")
async def both(server_url: str, migrated_template: str) -> AsyncIterator[Tenants]:
    database_url = await create_database(server_url, f"tenants_{uuid.uuid4().hex[:12]}", migrated_template)
    async with tenants(database_url) as made:
        yield made


class Things(dict[str, list[Any]]):
    """What `main` has, by what it is."""


@pytest_asyncio.fixture(scope="module")
async def things(both: Tenants) -> Things:
    """One of everything, under names that nothing else has."""
    victim, do = both.victim, both.victim.do
    open_run = await do("StartRun", type="t", task_queue="held", workflow_id="victim-run", correlation_id="victim-c")
    driven = await do("CreateRun", type="t", initial_phase=types_pb2.RUN_PHASE_RUNNING, workflow_id="victim-driven")
    ended = await do("StartRun", type="t", task_queue="held", workflow_id="victim-ended")
    await do("TerminateRun", run_id=ended.run_id)
    step = await do("BeginStep", run_id=driven.run_id, step_name="s")
    event = await do("AppendEvent", run_id=driven.run_id, type="t")
    user_task = await do("CreateUserTask", run_id=driven.run_id, step_name="s")
    job = await do("StartJob", type="t", task_queue="held", unique_key="victim-job", correlation_id="victim-c")
    definition = await do("CreateDefinition", definition={"code": "victim-code"})
    session_id, ref = await victim._held()
    await do("PublishEvent", topic="victim-topic", payload=types_pb2.Payload(json="1"), retain={"seconds": 600})
    schedule = await victim._schedule()
    await do("RegisterWorker", worker_id="victim-worker", task_queue="victim-queue")
    await do("AcquireLeadership", leadership="victim-leads", holder_id="victim-worker", ttl={"seconds": 600})
    return Things(
        {
            "run": [open_run.run_id, driven.run_id, ended.run_id],
            "job": [job.job_id],
            "session": [session_id],
            "definition": [definition.definition.definition_id],
            "key": [str(uuid.uuid4())],
            "step": [step.step.number],
            "activity": [await victim._activity()],
            "event": [event.event_number],
            "dead letter": [1],
            "workflow id": ["victim-run", "victim-driven", "victim-ended"],
            "code": ["victim-code"],
            "unique key": ["victim-job"],
            "correlation id": ["victim-c"],
            "worker": ["victim-worker"],
            "leadership": ["victim-leads"],
            "topic": ["victim-topic"],
            "schedule": [schedule],
            "queue": ["victim-queue", "held"],
            "task": [ref.task_id, user_task.user_task.task_id],
        }
    )


def samples(name: str, things: Things) -> list[Any]:
    """What of the victim's a field may be tried with."""
    kind = {**UUIDS, **NUMBERS, **TEXTS}.get(name) or ("queue" if name in QUEUES else "task")
    return things.get(kind, ["victim"])


def test_every_id_field_is_known() -> None:
    """A new field is put among those that name something (IDS), or those that do not (NOT_IDS), in tenants.py."""
    found = {
        place.field.name
        for method in METHODS.values()
        for place in method.places
        if place.field.message_type is None and place.field.type in SCALARS
    }
    assert found - IDS - NOT_IDS == set(), "fields that are new: do they name what a tenant has?"
    assert (IDS | NOT_IDS) - found == set(), "fields that no request has any more"
    assert not IDS & NOT_IDS


async def told_alike(both: Tenants, method: Method, ours: Any, nobodys: Any, what: str) -> list[str]:
    """Whether two requests are told the same."""
    first, second = await both.steal(method, ours), await both.steal(method, nobodys)
    here, there = first.like(ours, nobodys), second.like(ours, nobodys)
    return [] if here == there else [f"{method.name} {what}: {here} but {there} of nothing"]


async def tried(both: Tenants, method: Method, request: Any, things: Things) -> list[str]:
    """What gives away something of the victim's."""
    ours, nobodys = of_thief(request), without_ids(of_thief(request))
    found = await told_alike(both, method, ours, nobodys, "as a whole")
    for place in method.places:
        name = place.field.name
        if name not in IDS - OPAQUE or place.field.message_type is not None:
            continue
        for sample in samples(name, things):
            with_one = of_thief(put(nobodys, place, sample))
            without = of_thief(put(nobodys, place, absent(name, sample)))
            found += await told_alike(both, method, with_one, without, f"{place}={sample}")
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_another_tenant_s_ids_are_nobody_s(both: Tenants, things: Things, service: str) -> None:
    called = [method for method in METHODS.values() if method.service == service]
    requests = {method.name: await both.victim.good(method) for method in called}
    before = await both.rows()
    found = [each for method in called for each in await tried(both, method, requests[method.name], things)]
    assert found == []
    after = await both.rows()
    assert after.keys() == before.keys()
    for table, rows in after.items():
        assert rows == before[table], table


@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row.role is Role.ADMIN))
async def test_what_is_an_admin_s_is_denied_before_anything_is_looked_for(both: Tenants, name: str) -> None:
    method = METHODS[name]
    told = await both.steal(method, type(method.new())())
    assert (told.code, DENIED[1] in told.message) == (DENIED[0], True)


@pytest.mark.parametrize("method", REPEATED, ids=lambda each: each.name)
async def test_another_tenant_s_request_is_no_repeat(both: Tenants, method: Method) -> None:
    """What was answered under a request id is not told to who gives the same id elsewhere."""
    request = await both.victim.good(method)
    request.request_id = f"of-{method.name}"
    await both.victim.outcome(method, request)
    nobodys = without_ids(of_thief(request))
    nobodys.request_id = absent("request_id", "")
    again = put(nobodys, next(each for each in method.places if str(each) == "request_id"), f"of-{method.name}")
    assert await told_alike(both, method, again, nobodys, "request_id") == []


@pytest.mark.parametrize("method", PAGED, ids=lambda each: each.name)
async def test_another_tenant_s_pages_are_closed(both: Tenants, things: Things, method: Method) -> None:
    """A token that `main` was given opens nothing elsewhere."""
    request = await both.victim.good(method)
    request.page_token = forged(request, 1)
    told = await both.steal(method, of_thief(request))
    if ROWS[method.name].role is Role.ADMIN:
        assert told.code == "PERMISSION_DENIED"
    else:
        assert (told.code, "PAGE_TOKEN_INVALID" in told.message) == ("INVALID_ARGUMENT", True)
