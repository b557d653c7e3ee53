"""assay's `WorkflowStore`, the part about API keys: hashes that it made, of which none opens this service."""

from __future__ import annotations

import pytest
from tests.parity.cases import Engine, answers
from tests.parity.test_assay import TRAIT

from stepwell import reasons
from stepwell.stores.assay import ApiKeyRecord, WorkflowStore


@answers(TRAIT, "create_api_key", "list_api_keys")
async def test_keys_are_kept_and_listed_newest_first(engine: Engine) -> None:
    """With what may be shown of them; the same hash twice is an error."""
    store, space = engine.store(WorkflowStore), engine.namespace
    for number in range(3):
        label = f"l{number}" if number else None
        await store.create_api_key(f"{space}-{number}", f"{space}-p{number}", label, 100.0 + number)
    mine = [key for key in await store.list_api_keys() if key.prefix.startswith(f"{space}-p")]
    assert mine == [
        ApiKeyRecord(prefix=f"{space}-p{number}", label=f"l{number}" if number else None, created_at=100.0 + number)
        for number in (2, 1, 0)
    ]
    with pytest.raises(reasons.ApiKeyExists):
        await store.create_api_key(f"{space}-0", "other", None, 1.0)


@answers(TRAIT, "validate_api_key", "revoke_api_key")
async def test_keys_are_looked_up_until_they_are_revoked(engine: Engine) -> None:
    store, key_hash, prefix = engine.store(WorkflowStore), f"{engine.namespace}-h", engine.namespace
    assert not await store.validate_api_key(key_hash)
    await store.create_api_key(key_hash, prefix, None, 1.0)
    assert await store.validate_api_key(key_hash)
    assert not await store.validate_api_key(key_hash.upper())
    assert [await store.revoke_api_key(prefix) for _ in range(2)] == [True, False]
    assert not await store.validate_api_key(key_hash)
