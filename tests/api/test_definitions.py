"""Definitions over the wire: versions, pages with bodies, masks and revisions, and what is refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from tests.api.stores import json
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import definitions_pb2, namespaces_pb2

GREATEST = 2**31 - 2


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def call(service: Service, method: str, **fields: Any) -> Any:
    request = getattr(definitions_pb2, f"{method}Request")(**fields)
    return await getattr(service.definitions, method)(request, timeout=TIMEOUT)


async def create(service: Service, code: str = "order", namespace: str = "", **fields: Any) -> Any:
    made = definitions_pb2.Definition(code=code, **fields)
    return (await call(service, "CreateDefinition", namespace=namespace, definition=made)).definition


async def codes(service: Service, method: str = "ListDefinitions", **fields: Any) -> list[tuple[str, int]]:
    """All pages of a list, one at a time."""
    found: list[tuple[str, int]] = []
    token = ""
    while True:
        page = await call(service, method, page_size=1, page_token=token, **fields)
        found += [(each.code, each.version) for each in page.definitions]
        token = page.next_page_token
        if not token:
            return found


async def test_without_a_version_it_is_the_next(service: Service) -> None:
    assert [(await create(service)).version for _ in range(2)] == [1, 2]
    assert (await create(service, version=7)).version == 7
    assert (await create(service)).version == 8
    told = await call(service, "GetDefinitionCode", code="order")
    assert (told.exists, told.version_count, told.latest_version, told.next_version) == (True, 4, 8, 9)
    told = await call(service, "GetDefinitionCode", code="unknown")
    assert (told.exists, told.version_count, told.latest_version, told.next_version) == (False, 0, 0, 1)


async def test_there_is_a_last_version(service: Service) -> None:
    await create(service, version=GREATEST)
    assert await refusal(create(service)) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert await refusal(create(service, version=GREATEST + 1)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert (await call(service, "GetDefinitionCode", code="order")).next_version == GREATEST + 1


async def test_of_creators_of_one_version_one_wins(service: Service) -> None:
    answers: list[Any] = await asyncio.gather(*(create(service, version=3) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(answer, definitions_pb2.Definition) for answer in answers) == 1
    assert await codes(service) == [("order", 3)]


async def test_creators_of_the_next_version_and_of_that_one_do_not_meet(service: Service) -> None:
    """Who asks for the next one gets one, whoever names it meanwhile."""
    nexts = [create(service) for _ in range(10)]
    named = [create(service, version=number) for number in range(1, 11)]
    answers: list[Any] = await asyncio.gather(*nexts, *named, return_exceptions=True)
    versions = [answer.version for answer in answers if isinstance(answer, definitions_pb2.Definition)]
    assert len(set(versions)) == len(versions)
    assert all(isinstance(answer, definitions_pb2.Definition) for answer in answers[:10])


async def test_the_latest_active_one_is_found(service: Service) -> None:
    for version in (1, 2, 3):
        await create(service, version=version, active=version != 3)
    latest = await call(service, "GetDefinition", code="order")
    active = await call(service, "GetDefinition", code="order", active_only=True)
    assert (latest.definition.version, active.definition.version) == (3, 2)
    inactive = call(service, "GetDefinition", code="order", version=3, active_only=True)
    assert await refusal(inactive) == ("NOT_FOUND", "DEFINITION_NOT_FOUND")


async def test_what_is_given_must_fit_together(service: Service) -> None:
    made = await create(service)
    fits = {"definition_id": made.definition_id, "code": "order", "version": 1}
    assert (await call(service, "GetDefinition", **fits)).definition == made
    for other in ({"code": "other"}, {"version": 2}, {"definition_id": str(uuid.uuid4())}):
        found = call(service, "GetDefinition", **{**fits, **other})
        assert await refusal(found) == ("NOT_FOUND", "DEFINITION_NOT_FOUND")


async def test_lists_are_filtered_sorted_and_paged(service: Service) -> None:
    for code, version in (("b", 2), ("a", 1), ("b", 1), ("B", 1)):
        await create(service, code, version=version, name=code.upper(), active=(code, version) != ("b", 1))
    assert sorted(await codes(service)) == [("B", 1), ("a", 1), ("b", 1), ("b", 2)]
    assert await codes(service, active_only=True, filter='code = "b*"') == [("b", 2)]
    assert await codes(service, order_by="version desc, name", filter="NOT (code = B)") == [
        ("b", 2),
        ("a", 1),
        ("b", 1),
    ]
    assert await codes(service, "SearchDefinitions", text="A") == [("a", 1)]
    assert await codes(service, "ListDefinitionVersions", code="b") == [("b", 2), ("b", 1)]
    assert await refusal(codes(service, order_by="body")) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    page = await call(service, "ListDefinitions", page_size=1)
    other = call(service, "ListDefinitions", page_size=1, page_token=page.next_page_token, active_only=True)
    assert await refusal(other) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_bodies_come_when_asked_for_as_many_as_a_message_takes(service: Service) -> None:
    body = json('"' + "x" * 1_500_000 + '"')
    for _ in range(3):
        await create(service, body=body, metadata=json('{"a": 1}'))
    light = await call(service, "ListDefinitions")
    assert [(each.metadata.json, each.HasField("body")) for each in light.definitions] == [('{"a": 1}', False)] * 3
    first = await call(service, "ListDefinitions", with_bodies=True)
    assert [each.version for each in first.definitions] == [1, 2]
    rest = await call(service, "ListDefinitions", with_bodies=True, page_token=first.next_page_token)
    assert [each.body == body for each in rest.definitions] == [True]
    assert rest.next_page_token == ""


async def test_an_update_changes_what_its_mask_names(service: Service) -> None:
    made = await create(service, name="n", description="d", body=json("1"), metadata=json("2"))
    changed = {"name": "N", "description": "D", "body": json("3"), "metadata": json("4"), "active": False}
    for revision, (field, value) in enumerate(changed.items(), 2):
        asked = {"code": "order", "version": 1, field: value}
        mask = FieldMask(paths=[field])
        told = (await call(service, "UpdateDefinition", definition=asked, update_mask=mask)).definition
        assert told.revision == revision
    found = (await call(service, "GetDefinition", code="order")).definition
    assert {field: getattr(found, field) for field in changed} == changed
    assert (found.definition_id, found.create_time) == (made.definition_id, made.create_time)


async def test_of_concurrent_updates_of_one_revision_one_wins(service: Service) -> None:
    await create(service)

    def update(name: str) -> Any:
        asked = {"code": "order", "name": name}
        mask = FieldMask(paths=["name"])
        return call(service, "UpdateDefinition", definition=asked, update_mask=mask, expected_revision=1)

    answers: list[Any] = await asyncio.gather(*(update(str(n)) for n in range(10)), return_exceptions=True)
    won: list[Any] = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert [(each.definition.revision, each.definition.name) for each in won] == [(2, won[0].definition.name)]
    assert await refusal(update("late")) == ("FAILED_PRECONDITION", "DEFINITION_CHANGED")


async def test_nothing_crosses_namespaces(service: Service) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    made = await create(service)
    there = await create(service, namespace="other", definition_id=made.definition_id, name="theirs")
    assert (there.definition_id, there.version) == (made.definition_id, 1)
    assert (await call(service, "DeleteDefinition", namespace="other", code="order")).deleted_count == 1
    for fields in ({"definition_id": made.definition_id}, {"code": "order"}):
        gone = call(service, "GetDefinition", namespace="other", **fields)
        assert await refusal(gone) == ("NOT_FOUND", "DEFINITION_NOT_FOUND")
    assert (await call(service, "ActivateDefinition", namespace="other", code="order")).found_count == 0
    assert await codes(service, namespace="other") == []
    assert await codes(service) == [("order", 1)]


async def test_a_namespace_with_a_definition_is_not_deleted(service: Service) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="kept"))
    await create(service, namespace="kept")
    deletion = service.namespace_calls.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(namespace="kept"))
    assert await refusal(deletion) == ("FAILED_PRECONDITION", "NAMESPACE_NOT_EMPTY")


async def test_it_is_told_what_was_active_before(service: Service) -> None:
    for version in (1, 2, 3):
        await create(service, version=version, active=version == 2)
    told = await call(service, "ActivateDefinition", code="order")
    assert (told.found_count, told.changed_count) == (3, 2)
    told = await call(service, "DeactivateDefinition", code="order", version=1)
    assert (told.found_count, told.changed_count) == (1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"code": ""},
        {"code": "x" * 256},
        {"code": "a\0b"},
        {"name": "x" * 256},
        {"description": "x" * 4_097},
        {"definition_id": "1"},
        {"version": -1},
        {"metadata": json("x" * 17_000)},
        {"body": json("x" * 2_100_000)},
    ],
)
async def test_bad_definitions_are_refused(shared: Service, fields: dict[str, Any]) -> None:
    assert await refusal(create(shared, **fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await codes(shared) == []


@pytest.mark.parametrize("paths", [[], ["code"], ["version"], ["revision"], ["body.json"], ["\0"]])
async def test_bad_masks_are_refused(service: Service, paths: list[str]) -> None:
    await create(service)
    asked = call(service, "UpdateDefinition", definition={"code": "order"}, update_mask=FieldMask(paths=paths))
    assert await refusal(asked) == ("INVALID_ARGUMENT", "INVALID_FIELD")
