"""API keys for programs without asyncio: those of `stepwell.api_keys`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from stepwell.api_keys import ApiKeys, CreatedKey, KeyRole
    from stepwell.sync import Loop
    from stepwell.v1 import api_keys_pb2


class SyncApiKeys:
    """The service's API keys; `client.api_keys`."""

    def __init__(self, loop: Loop, inner: ApiKeys) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def create(
        self,
        role: KeyRole,
        *,
        label: str = "",
        namespace: str | None = None,
        task_queues: Sequence[str] = (),
        expire_time: dt.datetime | None = None,
        reuse_label: bool = False,
    ) -> CreatedKey:
        """Makes a key, as `stepwell.api_keys.ApiKeys.create`."""
        made = self._inner.create(
            role,
            label=label,
            namespace=namespace,
            task_queues=task_queues,
            expire_time=expire_time,
            reuse_label=reuse_label,
        )
        return self._loop.call(made)

    def get(self, key_id: str) -> api_keys_pb2.ApiKey:
        """Reads a key, also one that was revoked. Raises `ApiKeyNotFound`."""
        return self._loop.call(self._inner.get(key_id))

    def list(
        self,
        *,
        filter: str = "",  # noqa: A002
        order_by: str = "",
        show_revoked: bool = False,
    ) -> Iterator[api_keys_pb2.ApiKey]:
        """Lists keys, newest first. Raises `InvalidField` for a `filter`."""
        return self._loop.iterate(self._inner.list(filter=filter, order_by=order_by, show_revoked=show_revoked))

    def revoke(self, key_id: str = "", *, prefix: str = "") -> bool:
        """Revokes a key by its id or its prefix. False if there is none, or if it was. Raises `ApiKeyAmbiguous`."""
        return self._loop.call(self._inner.revoke(key_id, prefix=prefix))

    def import_hash(
        self,
        key_hash: str,
        prefix: str,
        *,
        label: str = "",
        create_time: dt.datetime | None = None,
        expire_time: dt.datetime | None = None,
    ) -> api_keys_pb2.ApiKey:
        """Keeps the hash of a key made elsewhere, with which nobody can call this service. Raises `ApiKeyExists`."""
        kept = self._inner.import_hash(key_hash, prefix, label=label, create_time=create_time, expire_time=expire_time)
        return self._loop.call(kept)

    def caller(self) -> api_keys_pb2.GetCallerResponse:
        """Tells who this client is to the service, and what it may use."""
        return self._loop.call(self._inner.caller())

    def validate(self, key_hash: str) -> bool:
        """Tells whether a hash was imported and holds still."""
        return self._loop.call(self._inner.validate(key_hash))
