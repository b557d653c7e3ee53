"""Where people find their tasks: inboxes in their order, lists by filter, page by page, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from tests.api.run_calls import create_namespace
from tests.people.kit import COMPLETED, HIGH, LOW, NORMAL, PENDING, URGENT, People, create, json
from tests.service import Service, refusal, serving

from stepwell.v1 import user_tasks_pb2 as messages


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def shared(shared_database_url: str) -> AsyncIterator[Service]:
    """For calls that are refused."""
    async with serving(shared_database_url) as running:
        yield running


@pytest.fixture
def people(service: Service) -> People:
    return People(service)


def due(days: int) -> Timestamp:
    return Timestamp(seconds=2_000_000_000 + days * 86_400)


def names(tasks: list[Any]) -> list[str]:
    return [task.step_name for task in tasks]


async def test_the_most_urgent_first_then_what_is_due_then_the_oldest(service: Service, people: People) -> None:
    """Over pages of any size, from any of one's roles and groups, each task once."""
    run_id, other = await create(service), await create(service)
    given: list[tuple[str, dict[str, Any]]] = [
        ("low", {"priority": LOW, "due_time": due(0), "assigned_role_id": "clerk"}),
        ("old", {"assigned_role_id": "clerk"}),
        ("new", {"assigned_group_id": "desk"}),
        ("later", {"due_time": due(2), "assigned_role_id": "boss", "assigned_group_id": "desk"}),
        ("soon", {"priority": NORMAL, "due_time": due(1), "assigned_role_id": "clerk", "assigned_user_id": "ann"}),
        ("high", {"priority": HIGH, "assigned_user_id": "ann"}),
        ("urgent", {"priority": URGENT, "due_time": due(9), "assigned_role_id": "boss"}),
        ("nobody's", {"priority": URGENT}),
        ("another's", {"priority": URGENT, "assigned_role_id": "smith", "assigned_user_id": "bob"}),
    ]
    for place, (name, spec) in enumerate(given):
        await people.made(other if place % 2 else run_id, name, **spec)
    whose = {"role_ids": ["clerk", "boss"], "group_ids": ["desk"], "user_id": "ann"}
    order = ["urgent", "high", "soon", "later", "old", "new", "low"]
    for size in (1, 2, 3, 50):
        assert names(await people.pages("ListInbox", **whose, page_size=size)) == order
    assert names(await people.pages("ListInbox", role_ids=["clerk"])) == ["soon", "old", "low"]
    assert names(await people.pages("ListInbox", group_ids=["desk"], page_size=1)) == ["later", "new"]
    assert names(await people.pages("ListInbox", user_id="ann")) == ["high", "soon"]
    assert await people.pages("ListInbox", user_id="carl") == []


async def test_an_inbox_is_of_one_namespace(service: Service, people: People) -> None:
    await create_namespace(service, "other")
    await people.made(await create(service), assigned_role_id="clerk")
    assert await people.pages("ListInbox", role_ids=["clerk"], namespace="other") == []


async def test_a_list_newest_first_and_by_page(service: Service, people: People) -> None:
    run_id, other = await create(service), await create(service, workflow_id="w")
    for number in range(7):
        await people.made(other if number == 3 else run_id, f"s{number}", priority=1 + number % 4)
    newest = [f"s{number}" for number in reversed(range(7))]
    assert names(await people.pages("ListUserTasks", page_size=2)) == newest
    assert names(await people.pages("ListUserTasks", page_size=2, statuses=[PENDING, COMPLETED])) == newest
    assert names(await people.pages("ListUserTasks", page_size=3, order_by="priority desc, step_name")) == [
        *("s3", "s2", "s6"),
        *("s1", "s5", "s0", "s4"),
    ]
    assert names(await people.pages("ListUserTasks", workflow_id="w")) == ["s3"]
    assert names(await people.pages("ListUserTasks", run_id="01890a5d-ac96-774b-bcce-b302099a8057")) == []
    assert names(await people.pages("ListUserTasks", filter="priority = URGENT OR step_name = s0")) == ["s3", "s0"]
    assert names(await people.pages("ListUserTasks", filter="due_time:*")) == []


async def test_a_walk_sees_each_task_once_while_others_come(service: Service, people: People) -> None:
    run_id = await create(service)
    there = [(await people.made(run_id, assigned_role_id="clerk")).task_id for _ in range(30)]

    async def add() -> None:
        for _ in range(15):
            await people.made(run_id, assigned_role_id="clerk")

    adding = asyncio.create_task(add())
    walks = [
        await people.pages("ListInbox", role_ids=["clerk"], page_size=4),
        await people.pages("ListUserTasks", page_size=4),
    ]
    await adding
    for walk in walks:
        seen = [task.task_id for task in walk]
        assert len(seen) == len(set(seen))
        assert set(there) <= set(seen)


async def test_large_tasks_come_in_smaller_pages(service: Service, people: People) -> None:
    run_id = await create(service)
    large = json('"' + "x" * 1_500_000 + '"')
    for number in range(4):
        await people.made(run_id, f"s{number}", input=large, assigned_role_id="clerk")
    page = await people.call("ListInbox", role_ids=["clerk"])
    assert len(page.user_tasks) == 2
    walked = await people.pages("ListInbox", role_ids=["clerk"])
    assert [task.step_name for task in walked] == ["s0", "s1", "s2", "s3"]
    assert all(task.spec.input == large for task in await people.pages("ListUserTasks"))


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("step_name", messages.CreateUserTaskRequest()),
        ("task_id", messages.CreateUserTaskRequest(step_name="s", task_id="x")),
        ("spec.title", messages.CreateUserTaskRequest(step_name="s", spec={"title": "\0"})),  # type: ignore[arg-type]
        ("spec.priority", messages.CreateUserTaskRequest(step_name="s", spec={"priority": 9})),  # type: ignore[arg-type]
        ("task_id", messages.GetUserTaskRequest()),
        ("step_name", messages.GetActiveUserTaskRequest()),
        ("user_id", messages.ClaimUserTaskRequest()),
        ("user_id", messages.CompleteUserTaskRequest()),
        ("update_mask", messages.UpdateUserTaskRequest()),
        ("update_mask", messages.UpdateUserTaskRequest(update_mask={"paths": ["status"]})),  # type: ignore[arg-type]
        ("user_id", messages.ListInboxRequest()),
        ("role_ids[0]", messages.ListInboxRequest(role_ids=[""])),
        ("role_ids", messages.ListInboxRequest(role_ids=["r"] * 257)),
        ("namespace", messages.ListInboxRequest(user_id="ann", namespace="-")),
        ("filter", messages.ListUserTasksRequest(filter="colour = red")),
        ("order_by", messages.ListUserTasksRequest(order_by="description")),
        ("query", messages.ListUserTasksRequest(query="x" * 256)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.DESCRIPTOR.name,
)
async def test_a_bad_field_is_named(shared: Service, field: str, request_: Any) -> None:
    if "run_id" in request_.DESCRIPTOR.fields_by_name and not isinstance(request_, messages.ListUserTasksRequest):
        request_.run_id = await create(shared)
    method = request_.DESCRIPTOR.name.removesuffix("Request")
    fields = {each.name: value for each, value in request_.ListFields()}
    assert await refusal(People(shared).call(method, **fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    with pytest.raises(Exception, match=field.replace("[", r"\[").replace(".", r"\.")):
        await People(shared).call(method, **fields)
