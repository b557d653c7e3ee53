"""API keys: what programs prove themselves with. Making and revoking them takes an admin's key."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from stepwell._rpc import uuid7
from stepwell.policies import timestamp
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import api_keys_pb2
from stepwell.v1.api_keys_pb2_grpc import ApiKeyServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller

KeyRole = Literal["reader", "worker", "client", "operator", "admin"]


class CreatedKey(NamedTuple):
    """A key, and the secret, which is not shown again; empty if the key was there already."""

    api_key: api_keys_pb2.ApiKey
    secret: str


class ApiKeys:
    """The service's API keys; `client.api_keys`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        """Made by the client."""
        self._stub = ApiKeyServiceStub(channel)
        self._caller = caller

    async def create(
        self,
        role: KeyRole,
        *,
        label: str = "",
        namespace: str | None = None,
        task_queues: Sequence[str] = (),
        expire_time: dt.datetime | None = None,
        reuse_label: bool = False,
    ) -> CreatedKey:
        """Makes a key that does what its role does, in a namespace (default `main`; `-` for all, as an admin's is).

        With `task_queues` a worker's takes tasks from those alone: names, or beginnings of names with `*` behind.

        With `reuse_label` a key of that label that holds is given instead, without its secret. Raises
        `NamespaceNotFound`, `InvalidField`, `ApiKeysNotRequired`.
        """
        request = api_keys_pb2.CreateApiKeyRequest(
            namespace=namespace if namespace is not None else "-" if role == "admin" else "main",
            role=api_keys_pb2.ApiKeyRole.Value(f"API_KEY_ROLE_{role.upper()}"),
            label=label,
            expire_time=timestamp(expire_time),
            reuse_label=reuse_label,
            request_id=uuid7(),
            task_queues=task_queues,
        )
        response = await self._caller.call(self._stub.CreateApiKey, request)
        return CreatedKey(response.api_key, response.secret)

    async def get(self, key_id: str) -> api_keys_pb2.ApiKey:
        """Reads a key, also one that was revoked. Raises `ApiKeyNotFound`."""
        request = api_keys_pb2.GetApiKeyRequest(key_id=key_id)
        return (await self._caller.call(self._stub.GetApiKey, request)).api_key

    async def list(
        self,
        *,
        filter: str = "",  # noqa: A002
        order_by: str = "",
        show_revoked: bool = False,
    ) -> AsyncGenerator[api_keys_pb2.ApiKey, None]:
        """Lists keys, newest first. Raises `InvalidField` for a `filter`."""
        request = api_keys_pb2.ListApiKeysRequest(
            filter=filter, order_by=order_by, show_revoked=show_revoked, page_size=PAGE_SIZE
        )
        while True:
            page = await self._caller.call(self._stub.ListApiKeys, request)
            for key in page.api_keys:
                yield key
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def revoke(self, key_id: str = "", *, prefix: str = "") -> bool:
        """Revokes a key by its id or its prefix. False if there is none, or if it was. Raises `ApiKeyAmbiguous`."""
        request = api_keys_pb2.RevokeApiKeyRequest(key_id=key_id, prefix=prefix)
        return (await self._caller.call(self._stub.RevokeApiKey, request)).revoked

    async def import_hash(
        self,
        key_hash: str,
        prefix: str,
        *,
        label: str = "",
        create_time: dt.datetime | None = None,
        expire_time: dt.datetime | None = None,
    ) -> api_keys_pb2.ApiKey:
        """Keeps the hash of a key made elsewhere, with which nobody can call this service. Raises `ApiKeyExists`."""
        request = api_keys_pb2.ImportApiKeyRequest(
            key_hash=key_hash,
            prefix=prefix,
            label=label,
            create_time=timestamp(create_time),
            expire_time=timestamp(expire_time),
        )
        return (await self._caller.call(self._stub.ImportApiKey, request)).api_key

    async def caller(self) -> api_keys_pb2.GetCallerResponse:
        """Tells who this client is to the service, and what it may use: by a key, a token or a certificate."""
        return await self._caller.call(self._stub.GetCaller, api_keys_pb2.GetCallerRequest())

    async def validate(self, key_hash: str) -> bool:
        """Tells whether a hash was imported and holds still."""
        request = api_keys_pb2.ValidateApiKeyRequest(key_hash=key_hash)
        return (await self._caller.call(self._stub.ValidateApiKey, request)).valid
