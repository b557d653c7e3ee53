"""Two tenants: `main`, which has one of everything, and `thief`, which has a key of its own and the other's ids."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from tests.api.keyed import bearer
from tests.hostile.answers import statuses
from tests.hostile.methods import SAMPLES, Method
from tests.hostile.served import rows_of
from tests.hostile.values import Place, is_map
from tests.hostile.world import World

from stepwell_server.api.access import TABLE, Access
from stepwell_server.api.interceptors.errors import DETAILS_KEY
from stepwell_server.ids import MAIN, pack, unpack
from stepwell_server.model.api_keys import Role, make_key
from stepwell_server.service import Service
from stepwell_server.settings import Settings
from stepwell_server.store import api_keys

THIEF = "thief"
ROWS: dict[str, Access] = {name: row for rows in TABLE.values() for name, row in rows.items()}

UUIDS = {
    "run_id": "run",
    "parent_run_id": "run",
    "source_run_id": "run",
    "last_run_id": "run",
    "new_run_id": "run",
    "job_id": "job",
    "session_id": "session",
    "definition_id": "definition",
    "key_id": "key",
}
NUMBERS = {"step_number": "step", "activity_number": "activity", "event_number": "event", "number": "dead letter"}
TEXTS = {
    "workflow_id": "workflow id",
    "parent_workflow_id": "workflow id",
    "new_workflow_id": "workflow id",
    "last_workflow_id": "workflow id",
    "code": "code",
    "unique_key": "unique key",
    "idempotency_key": "idempotency key",
    "correlation_id": "correlation id",
    "trigger_key": "trigger key",
    "worker_id": "worker",
    "owner_id": "worker",
    "holder_id": "worker",
    "leadership": "leadership",
    "topic": "topic",
    "request_id": "request",
    "key_hash": "key hash",
    "prefix": "key prefix",
    "update_id": "update",
    "user_id": "user",
    "name": "schedule",
}
QUEUES = {"task_queue", "task_queues"}
OPAQUE = {"page_token", "cursor"}
IDS = {*UUIDS, *NUMBERS, *TEXTS, *QUEUES, *OPAQUE, "task_id"}
"""Fields that name what somebody has made, or may have. A field is known here by its name, wherever it stands."""

_NO_NAMES = """
    active_tasks activity_types after_ordinal agreeing archive_uri archive_url assigned_group_id assigned_role_id
    assigned_user_id attempt blocked_by build_id burst caller_seq calls cancel_ordinals claim_token
    compatible_build_ids correlation count cron data data_names dependents description event_seq every_named
    expected_revision expected_version fairness_key filter fingerprint fired_count group_ids hash id_suffix
    identity json key label last_error limit max_concurrent_activities max_concurrent_workflows max_outstanding
    max_resident max_tasks maximum_attempts maximum_runs message missed_count names namespace new_name
    non_retryable_types occurrence order_by ordinal page_size pause_reason ping place pong priority query
    query_name reason revision role_ids schema_type scope sdk seq signal_name skip skipped_count stack_trace
    step_name step_ordinals stop_ordinals text time_zone title token traceparent type update_name version
    waiting_count winner workflow_types
"""
NOT_IDS = set(_NO_NAMES.split())
"""Fields that name nothing by themselves: contents, numbers in a run that is named beside them, proofs of a hold."""
SCALARS = {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_INT32,
}
_TASK = re.compile(r"(\d+)\.(\d+|job)")
_FAR = 2**40
_THIEVES = re.compile(rf"{THIEF}-\d+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VARYING = re.compile(r"(seconds|nanos|epoch|token|number|position|ordinal)(:|=) -?\d+|\b\d{6,}\b")


def absent(name: str, value: Any) -> Any:
    """The like of an id, which nobody has."""
    if name in UUIDS:
        return str(uuid.uuid4())
    if name in NUMBERS:
        return _FAR if name == "number" else pack(_FAR, unpack(value)[1])
    if name == "task_id":
        task = _TASK.fullmatch(value)
        return f"{_FAR}.{task[2]}" if task is not None else str(uuid.uuid4())
    return f"absent-{uuid.uuid4().hex[:8]}"


def ids_in(message: Any) -> Iterator[tuple[Any, FieldDescriptor, Any]]:
    """The ids that a message holds, however deep: the message that has each, its field, and the value."""
    for field, value in message.ListFields():
        if is_map(field):
            continue
        if field.message_type is not None:
            for below in value if field.is_repeated else (value,):
                yield from ids_in(below)
        elif field.name in IDS - OPAQUE:
            yield from ((message, field, each) for each in (value if field.is_repeated else (value,)))


def without_ids(request: Any) -> Any:
    """The same request with ids of nothing."""
    other = copy(request)
    for holder, field, value in list(ids_in(other)):
        if field.is_repeated:
            values = getattr(holder, field.name)
            values[list(values).index(value)] = absent(field.name, value)
        else:
            setattr(holder, field.name, absent(field.name, value))
    return other


def of_thief(request: Any, namespace: str = THIEF) -> Any:
    """The request, of another tenant's namespace in all places where one can be named."""
    for field, value in request.ListFields():
        if field.message_type is not None and not is_map(field):
            for below in value if field.is_repeated else (value,):
                of_thief(below, namespace)
    if "namespace" in request.DESCRIPTOR.fields_by_name:
        request.namespace = namespace
    return request


class Told:
    """What a caller hears, without the ids that were named and what differs from one call to the next."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message

    def like(self, *requests: Message) -> tuple[str, str]:
        """Comparable with what another request was told."""
        text = _THIEVES.sub(THIEF, self.message)
        named = {name for request in requests for _, field, value in ids_in(request) for name in names(field, value)}
        for each in sorted(named, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(each)}(?!\w)", "ID", text)
        return self.code, _VARYING.sub("N", _UUID.sub("ID", text))


def names(field: FieldDescriptor, value: Any) -> set[str]:
    """How an answer may spell an id: a number and a task also by the run in them."""
    if field.name in NUMBERS and field.name != "number":
        return {str(value), str(unpack(value)[0])}
    return {str(value), str(value).partition(".")[0]} if field.name == "task_id" else {str(value)}


class Tenants:
    """See the module. `victim` calls with an admin's key; the thief with one of the role that the method needs."""

    def __init__(self, service: Service, channel: grpc.aio.Channel, admin: str) -> None:
        self.service = service
        self.channel = channel
        self.victim = World(service, channel, bearer(admin))
        self._database_url = service.settings.database_url or ""
        self._keys: dict[tuple[Role, str | None], str] = {}
        self._count = 0
        self._stubs = World(None, channel)

    async def steal(self, method: Method, request: Any) -> Told:
        """Calls with a thief's key: what writes, in a namespace that nothing was written in before."""
        row = ROWS[method.name]
        is_apart = row.writes and row.role is not Role.ADMIN
        needed = row.role or Role.READER
        if is_apart:
            self._count += 1
            request = of_thief(copy(request), f"{THIEF}-{self._count}")
        of, space = Role.READER if needed is Role.ADMIN else needed, None if is_apart else THIEF
        if (of, space) not in self._keys:
            self._keys[of, space] = await make(self.service, of, space)
        self._stubs.metadata = bearer(self._keys[of, space])
        try:
            if method.is_unary:
                answer = await self._stubs.send(method, request)
            else:
                answer = await self._first(method, request)
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY, b"")
            return Told(error.code().name, _words(Status.FromString(details)))
        if isinstance(answer, str):
            return Told("OK", answer)
        said = [_words(status) for status in statuses(answer)]
        for status in statuses(answer):
            status.ClearField("details")
        return Told("OK", "\n".join([str(answer), *said]))

    async def _first(self, method: Method, request: Any) -> Any:
        self._stubs._stubs.clear()
        called = self.channel.unary_stream if method.name != "Connect" else self.channel.stream_stream
        stub: Any = called(f"/stepwell.v1.{method.service}/{method.name}", type(request).SerializeToString)
        call = stub(iter([request]) if method.name == "Connect" else request, timeout=60, metadata=self._stubs.metadata)
        try:
            async with asyncio.timeout(60):
                await anext(aiter(call))
            return "something"
        finally:
            call.cancel()

    async def rows(self) -> dict[str, list[str]]:
        """All that the victim has."""
        return await rows_of(self._database_url, MAIN)


_MANY = """
    INSERT INTO stepwell.namespaces (name, create_time)
    SELECT 'thief-' || number, now() FROM generate_series(1, 20000) AS number
"""


def _words(status: Status) -> str:
    """All that a status says, in one order."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    words = [status.message]
    for detail in status.details:
        if detail.Unpack(info):
            words += [info.reason, *(f"{name}={info.metadata[name]}" for name in sorted(info.metadata))]
        elif detail.Unpack(bad):
            words += [f"{each.field}: {each.description}" for each in bad.field_violations]
        else:
            words.append(str(detail))
    return "\n".join(words)


def copy(request: Any) -> Any:
    other = type(request)()
    other.CopyFrom(request)
    return other


async def make(service: Service, role: Role, namespace: str | None) -> str:
    """A key, put into the database."""
    namespace_id = None if namespace is None else await service.namespaces.id_of(namespace)
    key, secret = make_key(role, "", namespace_id, service.clock.now(), None)
    await api_keys.create(service.database, key, namespace or "-")
    return secret


@asynccontextmanager
async def tenants(database_url: str) -> AsyncIterator[Tenants]:
    settings = Settings(
        database_url=database_url,
        port=0,
        test_clock=True,
        require_keys=True,
        shutdown_seconds=1.0,
        session_seconds=600.0,
    )
    async with Service(settings) as service, grpc.aio.insecure_channel(service.address) as channel:
        async with asyncio.timeout(60):
            await service.leader.wait_elected()
        made = Tenants(service, channel, await make(service, Role.ADMIN, None))
        await made.victim.do("CreateNamespace", namespace=THIEF)
        async with service.database.pool.begin() as connection:
            await connection.exec_driver_sql(_MANY)
        yield made


def put(request: Any, place: Place, value: Any) -> Any:
    """A copy of a request with that value in that place."""
    other = copy(request)
    place.put(other, value, SAMPLES)
    return other
