"""assay's methods on search attributes, snapshots and API keys."""

from __future__ import annotations

import json

from stepwell.search_attributes import spelled
from stepwell.stores._connection import Store, stamp
from stepwell.stores.assay.records import ApiKeyRecord, WorkflowSnapshot, payload_of
from stepwell.v1 import api_keys_pb2 as keys
from stepwell.v1 import search_attributes_pb2 as attributes
from stepwell.v1 import snapshot_store_pb2 as snapshots
from stepwell.v1.api_keys_pb2_grpc import ApiKeyServiceStub
from stepwell.v1.runs_pb2_grpc import RunServiceStub
from stepwell.v1.snapshot_store_pb2_grpc import SnapshotStoreStub

ANY = "-"


class Found(Store):
    """Search attributes, snapshots and API keys."""

    async def upsert_search_attributes(self, workflow_id: str, patch_json: str) -> None:
        """Merges a JSON object into the search attributes; a null stays as a name without a value.

        Differs: values are texts, numbers and flags, at most 32. Patches at the same time lose nothing.
        """
        request = attributes.UpsertSearchAttributesRequest(
            namespace=ANY, workflow_id=workflow_id, attributes=spelled(json.loads(patch_json)), keep_absent=True
        )
        await self.call(RunServiceStub(self.channel).UpsertSearchAttributes, request)

    async def create_snapshot(self, workflow_id: str, event_seq: int, state_json: str) -> None:
        """Keeps a state under a number, in the place of an earlier one of that number."""
        request = snapshots.CreateSnapshotRequest(
            namespace=ANY, workflow_id=workflow_id, event_seq=event_seq, state=payload_of(state_json)
        )
        await self.call(SnapshotStoreStub(self.channel).CreateSnapshot, request)

    async def get_latest_snapshot(self, workflow_id: str) -> WorkflowSnapshot | None:
        """The snapshot of the greatest number, or `None`."""
        request = snapshots.GetSnapshotRequest(namespace=ANY, workflow_id=workflow_id)
        answer = await self.call(SnapshotStoreStub(self.channel).GetSnapshot, request)
        if not answer.found:
            return None
        return WorkflowSnapshot(
            workflow_id=workflow_id,
            event_seq=answer.snapshot.event_seq,
            state_json=answer.snapshot.state.json,
            created_at=answer.snapshot.create_time.ToMicroseconds() / 1e6,
        )

    async def create_api_key(self, key_hash: str, prefix: str, label: str | None, created_at: float) -> None:
        """Keeps the hash of a key. Raises `ApiKeyExists`.

        Differs: it is looked up by `validate_api_key`, and opens nothing of this service.
        """
        request = keys.ImportApiKeyRequest(
            key_hash=key_hash, prefix=prefix, label=label or "", create_time=stamp(created_at)
        )
        await self.call(ApiKeyServiceStub(self.channel).ImportApiKey, request)

    async def validate_api_key(self, key_hash: str) -> bool:
        """Whether a hash is kept."""
        request = keys.ValidateApiKeyRequest(key_hash=key_hash)
        return (await self.call(ApiKeyServiceStub(self.channel).ValidateApiKey, request)).valid

    async def list_api_keys(self) -> list[ApiKeyRecord]:
        """What is shown of the keys, newest first; of the service's own, too."""
        found = await self.every(ApiKeyServiceStub(self.channel).ListApiKeys, keys.ListApiKeysRequest(), "api_keys")
        return [
            ApiKeyRecord(prefix=key.prefix, label=key.label or None, created_at=key.create_time.ToMicroseconds() / 1e6)
            for key in found
        ]

    async def revoke_api_key(self, prefix: str) -> bool:
        """Revokes the key of that prefix; `False` if there is none.

        Differs: of several keys none is revoked; which they are is in the error.
        """
        request = keys.RevokeApiKeyRequest(prefix=prefix)
        return (await self.call(ApiKeyServiceStub(self.channel).RevokeApiKey, request)).revoked
