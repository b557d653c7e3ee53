"""Every RPC, by its descriptor: without a key, with one of another role, with one for another namespace."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]
from tests.api.keyed import METHODS, Keyed, bearer, keyed, refused

from stepwell_server.api.access import TABLE, Access
from stepwell_server.embedded import create_database
from stepwell_server.model.api_keys import Role

NAMES = sorted(METHODS)
ROWS: dict[str, Access] = {name: row for rows in TABLE.values() for name, row in rows.items()}
MISSING = ("UNAUTHENTICATED", "API_KEY_MISSING")
ROLE_DENIED = ("PERMISSION_DENIED", "ROLE_DENIED")
NAMESPACE_DENIED = ("PERMISSION_DENIED", "NAMESPACE_DENIED")
DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


class World(NamedTuple):
    """A server with a key of each role: for `main`, and for the namespace `other`."""

    server: Keyed
    keys: dict[Role, str]
    others: dict[Role, str]


@pytest_asyncio.fixture(scope="module")
async def world(server_url: str, migrated_template: str) -> AsyncIterator[World]:
    database_url = await create_database(server_url, f"access_{uuid.uuid4().hex[:12]}", migrated_template)
    async with keyed(database_url) as server:
        await server.call("CreateNamespace", namespace="other")
        scoped: list[Role] = [role for role in Role if role is not Role.ADMIN]
        keys: dict[Role, str] = {role: await server.make(role) for role in scoped}
        others: dict[Role, str] = {role: await server.make(role, "other") for role in scoped}
        yield World(server, {**keys, Role.ADMIN: server.admin}, others)


def placed(name: str, place: str, namespace: str) -> Any:
    """A request that names a namespace in that place and says nothing else."""
    request = type(METHODS[name].new())()
    holder: Any = request
    *above, field = place.split(".")
    for part in above:
        inner = getattr(holder, part)
        holder = inner.add() if hasattr(inner, "add") else inner
        holder.SetInParent()
    setattr(holder, field, namespace)
    return request


async def outcome(server: Keyed, name: str, request: Any, key: str) -> tuple[str, str]:
    return await refused(server.send(METHODS[name], request, bearer(key)))


@pytest.mark.parametrize("name", NAMES)
async def test_without_a_key_nothing_is_answered(world: World, name: str) -> None:
    assert await world.server.refused(name, key="") == MISSING


@pytest.mark.parametrize("name", NAMES)
async def test_a_role_makes_its_own_calls_only(world: World, name: str) -> None:
    """Each role at each RPC: who may call is told what else is wrong with the empty request, and nobody else is."""
    for role, key in world.keys.items():
        said = await outcome(world.server, name, type(METHODS[name].new())(), key)
        if ROWS[name].allows(role):
            assert said[0] not in DENIED, role
        else:
            assert said == ROLE_DENIED, role


@pytest.mark.parametrize("name", [name for name in NAMES if ROWS[name].writes])
async def test_a_reader_writes_nothing(world: World, name: str) -> None:
    """Whatever the table says."""
    assert await world.server.refused(name, key=world.keys[Role.READER]) == ROLE_DENIED


@pytest.mark.parametrize("name", [name for name in NAMES if ROWS[name].role is not Role.ADMIN])
async def test_a_key_is_for_its_namespace(world: World, name: str) -> None:
    """In each place where a request names one: before anything is read, and before anything else is found wrong."""
    role = ROWS[name].role or Role.READER
    for place in ROWS[name].namespaces:
        for namespace in ("main", "none", "\x00"):
            request = placed(name, place, namespace)
            if place != "namespace" and "namespace" in ROWS[name].namespaces:
                request.namespace = "other"
            assert await outcome(world.server, name, request, world.others[role]) == NAMESPACE_DENIED, place
        for namespace in ("other", "-"):
            request = placed(name, place, namespace)
            if place != "namespace" and "namespace" in ROWS[name].namespaces:
                request.namespace = "other"
            said = await outcome(world.server, name, request, world.others[role])
            assert said[0] not in DENIED, (place, namespace)


@pytest.mark.parametrize("name", [name for name in NAMES if ROWS[name].namespaces and name != "Connect"])
async def test_a_namespace_left_out_is_main(world: World, name: str) -> None:
    """Which a key for another may not use; also where what would name it is left out as a whole."""
    role = ROWS[name].role or Role.READER
    if role is not Role.ADMIN:
        assert await world.server.refused(name, key=world.others[role]) == NAMESPACE_DENIED


async def test_any_namespace_means_those_that_the_key_may_use(world: World) -> None:
    """A run of another namespace is not found by `-`, nor by itself."""
    run_id = str((await world.server.call("StartRun", type="t")).run_id)
    other = str((await world.server.call("StartRun", namespace="other", type="t")).run_id)
    for key, found in ((world.keys[Role.READER], run_id), (world.others[Role.READER], other)):
        said = (await world.server.call("GetRun", key, namespace="-", run_id=found)).run
        assert said.run_id == found
        hidden = other if found == run_id else run_id
        assert await world.server.refused("GetRun", key, namespace="-", run_id=hidden) == ("NOT_FOUND", "RUN_NOT_FOUND")
    for each in (run_id, other):
        assert (await world.server.call("GetRun", namespace="-", run_id=each)).run.run_id == each


async def test_namespaces_are_listed_that_the_key_may_use(world: World) -> None:
    async def listed(key: str) -> list[str]:
        return [each.name for each in (await world.server.call("ListNamespaces", key)).namespaces]

    assert await listed(world.others[Role.READER]) == ["other"]
    assert await listed(world.keys[Role.READER]) == ["main"]
    assert {"main", "other"} <= set(await listed(world.server.admin))


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "swk_",
        "Bearer",
        "Bearer ",
        "Bearer swk_1234",
        "Basic c3dr",
        "Bearer SWK_" + "a" * 64,
        "Bearer swk_" + "a" * 65,
        "Bearer  swk_" + "a" * 64,
        "Bearer swk_" + "g" * 64,
    ],
)
async def test_what_is_no_key_is_malformed(world: World, sent: str) -> None:
    said = await refused(world.server.call("GetNamespace", metadata=(("authorization", sent),)))
    assert said == ("UNAUTHENTICATED", "API_KEY_MALFORMED")


async def test_of_two_keys_none_is_chosen(world: World) -> None:
    said = await refused(world.server.call("GetNamespace", metadata=bearer(world.server.admin) * 2))
    assert said == ("UNAUTHENTICATED", "API_KEY_MALFORMED")


async def test_the_scheme_is_spelt_as_one_likes(world: World) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        sent = (("authorization", f"{scheme} {world.keys[Role.READER]}"),)
        assert (await world.server.call("GetNamespace", metadata=sent)).namespace.name == "main"


async def test_health_is_open_and_reflection_is_not(world: World) -> None:
    """Probes have no key; who describes itself to anybody says so."""
    health = health_pb2_grpc.HealthStub(world.server.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING

    async def reflect(channel: grpc.aio.Channel, key: str) -> tuple[str, str]:
        method = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        return await refused(anext(aiter(method(asked, metadata=bearer(key)))))

    channel = world.server.channel
    assert await reflect(channel, "") == MISSING
    assert (await reflect(channel, world.others[Role.WORKER]))[0] == "OK"
    settings = world.server.service.settings
    async with keyed(settings.database_url or "", open_reflection=True) as other:
        assert (await reflect(other.channel, ""))[0] == "OK"
        assert await other.refused("GetNamespace", key="") == MISSING
