"""ApiKeyService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc.aio

from stepwell.v1 import api_keys_pb2, api_keys_pb2_grpc
from stepwell_server import errors
from stepwell_server.api.fields import ANY, Fields, time, uuid
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.interceptors.access import caller
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.dispatch.callers import Proof
from stepwell_server.errors import InvalidField
from stepwell_server.ids import uuid7
from stepwell_server.model.api_keys import LISTED, ApiKey, Role, SeenKey, make_key
from stepwell_server.store import api_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]


_PROOFS = {
    Proof.KEY: api_keys_pb2.GetCallerResponse.PROOF_KEY,
    Proof.TOKEN: api_keys_pb2.GetCallerResponse.PROOF_TOKEN,
    Proof.CERTIFICATE: api_keys_pb2.GetCallerResponse.PROOF_CERTIFICATE,
}


class ApiKeys(api_keys_pb2_grpc.ApiKeyServiceServicer):
    """Creates, lists and revokes keys, and tells callers who they are. `changed` is told when a key was revoked."""

    def __init__(
        self,
        database: Database,
        namespaces: Namespaces,
        clock: Clock,
        settings: Settings,
        changed: Callable[[], None],
    ) -> None:
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._fields = Fields(settings.limits)
        self._changed = changed

    async def CreateApiKey(
        self, request: api_keys_pb2.CreateApiKeyRequest, context: Context
    ) -> api_keys_pb2.CreateApiKeyResponse:
        if caller() is None:
            raise errors.ApiKeysNotRequired
        role = self._fields.member(request.role, api_keys_pb2.ApiKeyRole, "role", required=True)
        label = self._fields.text(request.label, "label")
        if request.reuse_label and not label:
            raise InvalidField(field="label", problem="is required with reuse_label")
        namespace = self._fields.any_namespace(request.namespace)
        if role == Role.ADMIN and namespace is not None:
            raise InvalidField(field="namespace", problem="must be '-' for an admin, who may do all in all of them")
        expire_time = self._expiry(request)
        task_queues = self._fields.names(request.task_queues, "task_queues")
        if task_queues and role != Role.WORKER:
            raise InvalidField(field="task_queues", problem="are a worker's: leave them out for another role")
        namespace_id = None if namespace is None else await self._namespaces.id_of(namespace)
        asked = asked_of(request, None, SeenKey, self._fields)
        key, secret = make_key(role, label, namespace_id, self._clock.now(), expire_time, task_queues)
        made, is_new = await api_keys.create(
            self._database, key, namespace or ANY, reuse_label=request.reuse_label, asked=asked
        )
        return api_keys_pb2.CreateApiKeyResponse(
            api_key=key_to_proto(made), secret=secret if is_new else "", created=is_new
        )

    async def GetApiKey(
        self, request: api_keys_pb2.GetApiKeyRequest, context: Context
    ) -> api_keys_pb2.GetApiKeyResponse:
        found = await api_keys.get(self._database, uuid(request.key_id, "key_id"))
        return api_keys_pb2.GetApiKeyResponse(api_key=key_to_proto(found))

    async def ListApiKeys(
        self, request: api_keys_pb2.ListApiKeysRequest, context: Context
    ) -> api_keys_pb2.ListApiKeysResponse:
        limits = self._fields.limits
        wanted = read_filter(request.filter, LISTED, limits)
        order = read_order(request.order_by, LISTED) or api_keys.NEWEST_FIRST
        page = read_page(request, position_of(order, LISTED, UUID), limits)
        rows = await api_keys.page(
            self._database, wanted, order, page.after, page.fetch, show_revoked=request.show_revoked
        )
        shown = rows[: page.size]
        return api_keys_pb2.ListApiKeysResponse(
            api_keys=[key_to_proto(row) for row in shown],
            next_page_token=page.token(api_keys.place_of(shown[-1], order)) if len(rows) > page.size else "",
        )

    async def RevokeApiKey(
        self, request: api_keys_pb2.RevokeApiKeyRequest, context: Context
    ) -> api_keys_pb2.RevokeApiKeyResponse:
        if bool(request.key_id) is bool(request.prefix):
            raise InvalidField(field="key_id", problem="is required, or else prefix, and not both")
        key_id = uuid(request.key_id, "key_id") if request.key_id else None
        prefix = self._fields.text(request.prefix, "prefix")
        revoked = await api_keys.revoke(self._database, self._clock.now(), key_id=key_id, prefix=prefix)
        if revoked:
            self._changed()
        return api_keys_pb2.RevokeApiKeyResponse(revoked=revoked)

    async def ImportApiKey(
        self, request: api_keys_pb2.ImportApiKeyRequest, context: Context
    ) -> api_keys_pb2.ImportApiKeyResponse:
        key = ApiKey(
            uuid7(),
            self._fields.name(request.prefix, "prefix"),
            self._fields.name(request.key_hash, "key_hash"),
            self._fields.text(request.label, "label"),
            role=0,
            namespace_id=None,
            is_imported=True,
            create_time=time(request, "create_time") or self._clock.now(),
            expire_time=time(request, "expire_time"),
        )
        return api_keys_pb2.ImportApiKeyResponse(api_key=key_to_proto(await api_keys.keep(self._database, key)))

    async def ValidateApiKey(
        self, request: api_keys_pb2.ValidateApiKeyRequest, context: Context
    ) -> api_keys_pb2.ValidateApiKeyResponse:
        key_hash = self._fields.name(request.key_hash, "key_hash")
        found = await api_keys.find_imported(self._database, key_hash, self._clock.now())
        if found is None:
            return api_keys_pb2.ValidateApiKeyResponse()
        return api_keys_pb2.ValidateApiKeyResponse(valid=True, api_key=key_to_proto(found))

    async def GetCaller(
        self, request: api_keys_pb2.GetCallerRequest, context: Context
    ) -> api_keys_pb2.GetCallerResponse:
        found = caller()
        if found is None:
            return api_keys_pb2.GetCallerResponse(role=api_keys_pb2.API_KEY_ROLE_ADMIN, namespace=ANY)
        return api_keys_pb2.GetCallerResponse(
            proof=_PROOFS[found.proof],
            name=found.name,
            role=api_keys_pb2.ApiKeyRole.ValueType(found.role),
            namespace=ANY if found.namespace is None else found.namespace,
            task_queues=found.task_queues or (),
            expire_time=time_to_proto(found.expire_time),
        )

    def _expiry(self, request: api_keys_pb2.CreateApiKeyRequest) -> datetime | None:
        expire_time = time(request, "expire_time")
        if expire_time is not None and expire_time <= self._clock.now():
            raise InvalidField(field="expire_time", problem="must be in the future")
        return expire_time


def key_to_proto(key: SeenKey) -> api_keys_pb2.ApiKey:
    """Renders a key."""
    return api_keys_pb2.ApiKey(
        key_id=str(key.key_id),
        prefix=key.prefix,
        label=key.label,
        role=api_keys_pb2.ApiKeyRole.ValueType(key.role),
        namespace="" if key.is_imported else (ANY if key.namespace is None else key.namespace),
        imported=key.is_imported,
        create_time=time_to_proto(key.create_time),
        expire_time=time_to_proto(key.expire_time),
        revoke_time=time_to_proto(key.revoke_time),
        use_time=time_to_proto(key.use_time),
        task_queues=key.task_queues or (),
    )
