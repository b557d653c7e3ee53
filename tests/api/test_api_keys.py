"""API keys over the wire: made, shown once, found, revoked; and hashes of other people's keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.api.keyed import Keyed, keyed
from tests.engine.replica import look

from stepwell.v1 import api_keys_pb2
from stepwell_server.model.api_keys import Role, hash_of, new_secret, prefix_of
from stepwell_server.store import api_keys

READER, CLIENT, ADMIN = (
    api_keys_pb2.API_KEY_ROLE_READER,
    api_keys_pb2.API_KEY_ROLE_CLIENT,
    api_keys_pb2.API_KEY_ROLE_ADMIN,
)
UNKNOWN = ("UNAUTHENTICATED", "API_KEY_UNKNOWN")
REVOKED = ("UNAUTHENTICATED", "API_KEY_REVOKED")
EXPIRED = ("UNAUTHENTICATED", "API_KEY_EXPIRED")


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("CreateApiKey", {}),
    ("CreateApiKey", {"role": 9}),
    ("CreateApiKey", {"role": READER, "label": "a\0"}),
    ("CreateApiKey", {"role": READER, "label": "x" * 256}),
    ("CreateApiKey", {"role": READER, "reuse_label": True}),
    ("CreateApiKey", {"role": READER, "namespace": "a b"}),
    ("CreateApiKey", {"role": READER, "expire_time": Timestamp(seconds=1)}),
    ("CreateApiKey", {"role": READER, "request_id": "a\n"}),
    ("GetApiKey", {}),
    ("GetApiKey", {"key_id": "swk_12345678"}),
    ("ListApiKeys", {"filter": "key_hash = x"}),
    ("ListApiKeys", {"order_by": "key_hash"}),
    ("RevokeApiKey", {}),
    ("RevokeApiKey", {"key_id": "x"}),
    ("RevokeApiKey", {"key_id": "01890a5d-ac96-774b-bcce-b302099a8057", "prefix": "swk_12345678"}),
    ("RevokeApiKey", {"prefix": "a\0"}),
    ("ImportApiKey", {"prefix": "p"}),
    ("ImportApiKey", {"key_hash": "h"}),
    ("ImportApiKey", {"key_hash": "h\0", "prefix": "p"}),
    ("ImportApiKey", {"key_hash": "h" * 256, "prefix": "p"}),
    ("ImportApiKey", {"key_hash": "h", "prefix": "p", "create_time": Timestamp(seconds=-1)}),
    ("ValidateApiKey", {}),
]


@pytest_asyncio.fixture
async def server(database_url: str) -> AsyncIterator[Keyed]:
    async with keyed(database_url) as made:
        yield made


def later(server: Keyed, seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(server.service.clock.now() + timedelta(seconds=seconds))
    return stamp


async def labels(server: Keyed, **fields: Any) -> list[str]:
    return [key.label for key in (await server.call("ListApiKeys", **fields)).api_keys]


async def rows(server: Keyed, query: str) -> list[Any]:
    async with look(server.service.settings.database_url or "") as database:
        return list(await database.rows(query))


async def test_a_key_is_shown_once_and_kept_as_its_hash(server: Keyed) -> None:
    made = await server.call("CreateApiKey", role=READER, label="reports")
    assert made.created
    assert made.secret.startswith("swk_")
    assert len(made.secret) == 68
    key = made.api_key
    assert (key.prefix, key.label, key.role, key.namespace) == (made.secret[:12], "reports", READER, "main")
    assert not key.imported
    assert not {"expire_time", "revoke_time", "use_time"} & {field.name for field, _ in key.ListFields()}
    found = (await server.call("GetApiKey", key_id=key.key_id)).api_key
    assert found == key
    assert (await server.call("GetNamespace", made.secret)).namespace.name == "main"
    (row,) = await rows(server, "SELECT key_hash, api_keys::text AS whole FROM api_keys WHERE label = 'reports'")
    assert row["key_hash"] == sha256(made.secret.encode()).hexdigest()
    assert made.secret not in row["whole"]
    for answer in (found, await server.call("ListApiKeys")):
        assert row["key_hash"] not in str(answer)
        assert made.secret[12:] not in str(answer)


async def test_no_two_keys_are_alike(server: Keyed) -> None:
    secrets = {(await server.call("CreateApiKey", role=READER, label="same")).secret for _ in range(8)}
    assert len(secrets) == 8
    assert len({new_secret() for _ in range(1_000)}) == 1_000


async def test_an_admin_s_key_is_for_all_and_others_for_one_unless_they_say_so(server: Keyed) -> None:
    for namespace in ("", "main"):
        said = await server.refused("CreateApiKey", role=ADMIN, namespace=namespace)
        assert said == ("INVALID_ARGUMENT", "INVALID_FIELD")
    admin = (await server.call("CreateApiKey", role=ADMIN, namespace="-")).secret
    await server.call("CreateNamespace", admin, namespace="other")
    for namespace, others in (("", False), ("other", True), ("-", True)):
        key = (await server.call("CreateApiKey", role=READER, namespace=namespace)).secret
        assert (await server.refused("GetNamespace", key, namespace="other"))[0] == (
            "OK" if others else "PERMISSION_DENIED"
        )
    said = await server.refused("CreateApiKey", role=READER, namespace="none")
    assert said == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")


async def test_what_is_wrong_is_named(server: Keyed) -> None:
    before = len(await rows(server, "SELECT FROM api_keys"))
    for method, fields in WRONG:
        assert await server.refused(method, **fields) == ("INVALID_ARGUMENT", "INVALID_FIELD"), (method, fields)
    assert len(await rows(server, "SELECT FROM api_keys")) == before


async def test_a_label_makes_a_key_once_if_asked(server: Keyed) -> None:
    """Also when many ask at once. One that was revoked or has expired is made anew."""
    answers = await asyncio.gather(
        *(server.call("CreateApiKey", role=READER, label="ci", reuse_label=True) for _ in range(12))
    )
    assert [answer.created for answer in answers].count(True) == 1
    assert [bool(answer.secret) for answer in answers].count(True) == 1
    assert len({answer.api_key.key_id for answer in answers}) == 1
    await server.call("RevokeApiKey", key_id=answers[0].api_key.key_id)
    soon = later(server, 60)
    assert (await server.call("CreateApiKey", role=READER, label="ci", reuse_label=True, expire_time=soon)).created
    await server.call("AdvanceClock", by=Duration(seconds=61))
    assert (await server.call("CreateApiKey", role=READER, label="ci", reuse_label=True)).created
    assert (await server.call("CreateApiKey", role=READER, label="ci")).created


async def test_a_repeat_is_known_and_shows_no_secret(server: Keyed) -> None:
    first = await server.call("CreateApiKey", role=READER, label="a", request_id="r")
    again = await server.call("CreateApiKey", role=READER, label="a", request_id="r")
    assert (again.api_key, again.secret, again.created) == (first.api_key, "", False)
    said = await server.refused("CreateApiKey", role=CLIENT, label="a", request_id="r")
    assert said == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    (row,) = await rows(server, "SELECT answer FROM requests")
    assert first.secret.encode() not in row["answer"]
    assert hash_of(first.secret).encode() not in row["answer"]


async def test_keys_are_listed_newest_first_and_in_pages(server: Keyed) -> None:
    for label in ("a", "b", "c"):
        await server.call("CreateApiKey", role=READER, label=label)
    assert await labels(server) == ["c", "b", "a", "first"]
    assert await labels(server, order_by="label") == ["a", "b", "c", "first"]
    assert await labels(server, filter='label = "b"') == ["b"]
    prefix = (await server.call("ListApiKeys", filter='label = "a"')).api_keys[0].prefix
    assert await labels(server, filter=f'prefix = "{prefix}"') == ["a"]
    assert await labels(server, filter='prefix = "swk_*"') == ["c", "b", "a", "first"]
    paged, token = [], ""
    while True:
        page = await server.call("ListApiKeys", page_size=3, page_token=token)
        paged += [key.label for key in page.api_keys]
        token = page.next_page_token
        if not token:
            break
    assert paged == ["c", "b", "a", "first"]
    await server.call("RevokeApiKey", prefix=prefix)
    assert await labels(server) == ["c", "b", "first"]
    assert await labels(server, show_revoked=True) == ["c", "b", "a", "first"]


async def test_a_key_is_revoked_by_its_id_or_its_prefix(server: Keyed) -> None:
    """At once where it was revoked. A repeat revokes nothing."""
    for by_prefix in (True, False):
        made = await server.call("CreateApiKey", role=READER)
        named = {"prefix": made.api_key.prefix} if by_prefix else {"key_id": made.api_key.key_id}
        assert (await server.call("GetNamespace", made.secret)).namespace.name == "main"
        assert (await server.call("RevokeApiKey", **named)).revoked
        assert await server.refused("GetNamespace", made.secret) == REVOKED
        assert not (await server.call("RevokeApiKey", **named)).revoked
        assert (await server.call("GetApiKey", key_id=made.api_key.key_id)).api_key.HasField("revoke_time")
    assert not (await server.call("RevokeApiKey", prefix="swk_00000000")).revoked
    none = "01890a5d-ac96-774b-bcce-b302099a8057"
    assert not (await server.call("RevokeApiKey", key_id=none)).revoked
    assert await server.refused("GetApiKey", key_id=none) == ("NOT_FOUND", "API_KEY_NOT_FOUND")


async def test_a_prefix_of_several_keys_is_refused_with_their_ids(server: Keyed) -> None:
    """And each of them goes on holding; what was revoked does not count."""
    ids = [(await server.call("ImportApiKey", key_hash=each, prefix="p")).api_key.key_id for each in "abc"]
    with pytest.raises(Exception, match=rf".*{ids[0]}.*{ids[1]}.*{ids[2]}") as raised:
        await server.call("RevokeApiKey", prefix="p")
    assert "FAILED_PRECONDITION" in str(raised.value)
    for each in ids[:2]:
        assert (await server.call("RevokeApiKey", key_id=each)).revoked
    assert (await server.call("RevokeApiKey", prefix="p")).revoked


async def test_imported_hashes_are_looked_up(server: Keyed) -> None:
    made = await server.call("ImportApiKey", key_hash="h", prefix="assay_1...", label="x", create_time={"seconds": 7})
    key = made.api_key
    assert (key.prefix, key.label, key.role, key.namespace, key.imported) == ("assay_1...", "x", 0, "", True)
    assert key.create_time.seconds == 7
    found = await server.call("ValidateApiKey", key_hash="h")
    assert (found.valid, found.api_key) == (True, key)
    assert not (await server.call("ValidateApiKey", key_hash="other")).valid
    assert await server.refused("ImportApiKey", key_hash="h", prefix="p") == ("ALREADY_EXISTS", "API_KEY_EXISTS")
    assert (await server.call("RevokeApiKey", prefix="assay_1...")).revoked
    assert not (await server.call("ValidateApiKey", key_hash="h")).valid
    await server.call("ImportApiKey", key_hash="h", prefix="p", expire_time=later(server, 60))
    assert (await server.call("ValidateApiKey", key_hash="h")).valid
    await server.call("AdvanceClock", by=Duration(seconds=61))
    assert not (await server.call("ValidateApiKey", key_hash="h")).valid


async def test_an_imported_hash_opens_nothing(server: Keyed) -> None:
    """Neither itself, nor the key that it is of, however much that looks like one of ours."""
    secret = new_secret()
    await server.call("ImportApiKey", key_hash=hash_of(secret), prefix=prefix_of(secret))
    assert (await server.call("ValidateApiKey", key_hash=hash_of(secret))).valid
    assert await server.refused("GetNamespace", secret) == UNKNOWN
    assert await server.refused("GetNamespace", f"swk_{hash_of(secret)}") == UNKNOWN
    assert await server.refused("GetNamespace", hash_of(secret)) == ("UNAUTHENTICATED", "API_KEY_MALFORMED")


async def test_keys_of_our_own_are_no_imported_ones(server: Keyed) -> None:
    """Who could ask after them could tell which there are."""
    assert not (await server.call("ValidateApiKey", key_hash=hash_of(server.admin))).valid


async def test_a_key_expires(server: Keyed) -> None:
    made = await server.call("CreateApiKey", role=READER, expire_time=later(server, 60))
    assert (await server.refused("GetNamespace", made.secret))[0] == "OK"
    await server.call("AdvanceClock", by=Duration(seconds=61))
    server.service.keys.forget()
    assert await server.refused("GetNamespace", made.secret) == EXPIRED


async def test_the_end_of_the_prefix_is_not_the_key(server: Keyed) -> None:
    """Whoever reads a list knows how keys begin."""
    assert await server.refused("GetNamespace", server.admin[:12] + "0" * 56) == UNKNOWN


async def test_a_namespace_takes_its_keys_along(server: Keyed) -> None:
    """Another of the same name is another one."""
    await server.call("CreateNamespace", namespace="a")
    key = await server.make(Role.READER, "a")
    assert (await server.refused("GetNamespace", key, namespace="a"))[0] == "OK"
    assert (await server.call("DeleteNamespace", namespace="a")).deleted
    await server.call("CreateNamespace", namespace="a")
    server.service.keys.forget()
    assert await server.refused("GetNamespace", key, namespace="a") == UNKNOWN


async def test_who_asks_nobody_for_keys_makes_none(database_url: str) -> None:
    """Else whoever came by would have one when keys are asked for."""
    async with keyed(database_url, require_keys=False) as open_server:
        said = await open_server.refused("CreateApiKey", key="", role=READER)
        assert said == ("FAILED_PRECONDITION", "API_KEYS_NOT_REQUIRED")
        assert len(await rows(open_server, "SELECT FROM api_keys")) == 1
        assert (await open_server.refused("GetNamespace", key="no key at all"))[0] == "OK"


async def test_the_first_key_is_not_made_by_a_call(database_url: str) -> None:
    """On a database without any key, nobody is let in."""
    async with keyed(database_url) as server:
        await api_keys.revoke(server.service.database, server.service.clock.now(), prefix=server.admin[:12])
        for key in ("", new_secret(), server.admin):
            assert (await server.refused("CreateApiKey", key=key, role=ADMIN, namespace="-"))[0] == "UNAUTHENTICATED"
