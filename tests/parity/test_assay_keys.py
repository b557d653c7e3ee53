"""assay's `WorkflowStore`, the part about API keys: hashes that it made, of which none opens this service."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from tests.parity.cases import Engine, answers
from tests.service import refusal

from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE


@answers(TRAIT, "create_api_key")
async def test_create_api_key(engine: Engine) -> None:
    """The hash is kept with what may be shown of the key; the same hash twice is an error."""
    fields = {"key_hash": f"{engine.namespace}-h", "prefix": "assay_0a1b2c3d...", "label": "ci"}
    made = (await engine.call("ImportApiKey", create_time=Timestamp(seconds=7), **fields)).api_key
    assert (made.prefix, made.label, made.create_time.seconds) == ("assay_0a1b2c3d...", "ci", 7)
    assert fields["key_hash"] not in str(made)
    assert await refusal(engine.call("ImportApiKey", **fields)) == ("ALREADY_EXISTS", "API_KEY_EXISTS")


@answers(TRAIT, "validate_api_key")
async def test_validate_api_key(engine: Engine) -> None:
    """True for a hash that is there, false for any other."""
    key_hash = f"{engine.namespace}-h"
    assert not (await engine.call("ValidateApiKey", key_hash=key_hash)).valid
    await engine.call("ImportApiKey", key_hash=key_hash, prefix="p")
    assert (await engine.call("ValidateApiKey", key_hash=key_hash)).valid
    assert not (await engine.call("ValidateApiKey", key_hash=key_hash.upper())).valid


@answers(TRAIT, "list_api_keys")
async def test_list_api_keys(engine: Engine) -> None:
    """Prefix, label and time of each, newest first, and no hash."""
    prefix = engine.namespace
    for number in range(3):
        at = Timestamp(seconds=100 + number)
        fields = {"key_hash": f"{prefix}-{number}", "prefix": f"{prefix}-p{number}", "label": f"l{number}"}
        await engine.call("ImportApiKey", create_time=at, **fields)
    keys = await engine.pages("ListApiKeys", "api_keys", filter=f'prefix = "{prefix}-*"', page_size=2)
    assert [(key.prefix, key.label, key.create_time.seconds) for key in keys] == [
        (f"{prefix}-p{number}", f"l{number}", 100 + number) for number in (2, 1, 0)
    ]


@answers(TRAIT, "revoke_api_key")
async def test_revoke_api_key(engine: Engine) -> None:
    """True if there was one; it is not listed and not valid any more, and its hash may come again."""
    prefix = engine.namespace
    await engine.call("ImportApiKey", key_hash=f"{prefix}-h", prefix=prefix)
    assert (await engine.call("RevokeApiKey", prefix=prefix)).revoked
    assert not (await engine.call("RevokeApiKey", prefix=prefix)).revoked
    assert await engine.pages("ListApiKeys", "api_keys", filter=f'prefix = "{prefix}"') == []
    assert not (await engine.call("ValidateApiKey", key_hash=f"{prefix}-h")).valid
    await engine.call("ImportApiKey", key_hash=f"{prefix}-h", prefix=prefix)
    assert (await engine.call("ValidateApiKey", key_hash=f"{prefix}-h")).valid
