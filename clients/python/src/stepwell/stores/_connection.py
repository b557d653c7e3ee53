"""What the classes of the mirrored stores share: a channel, a namespace, and how they call."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepwell._rpc import Caller, open_channel, uuid7
from stepwell.converter import JsonConverter
from stepwell.policies import timestamp
from stepwell.tls import Encryption, Tls
from stepwell.v1.types_pb2 import Payload

if TYPE_CHECKING:
    import grpc.aio
    from google.protobuf.message import Message

Response = TypeVar("Response")
Part = TypeVar("Part", bound="Store")

_LARGEST_PAGE = 1000
_JSON = JsonConverter()


_READS = ("Get", "List", "Read", "Count", "Search")
COLLECTING: ContextVar[Callable[[Any], Awaitable[Any]] | None] = ContextVar("collecting", default=None)
"""Who takes the writes of a transaction in place of the service."""


class Store:
    """A store in one namespace, over a channel. Subclasses add the store's methods; repositories share a channel."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        namespace: str = "main",
        api_key: str | None = None,
        call_timeout: float = 60.0,
    ) -> None:
        """Uses a channel that somebody else opened. `call_timeout`: the seconds that a call is repeated for."""
        self.namespace = namespace
        self.channel = channel
        self.caller = Caller(api_key, call_timeout)

    @classmethod
    def connect(
        cls,
        address: str = "127.0.0.1:7233",
        *,
        namespace: str = "main",
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | bool | None = None,
        call_timeout: float = 60.0,
    ) -> Self:
        """Opens a channel. The first call finds out whether anybody answers.

        `credentials` and `tls` are as `stepwell.Client.connect` has them. Raises `CertificateError`.
        """
        channel = open_channel(address, Encryption(credentials, tls).credentials())
        return cls(channel, namespace=namespace, api_key=api_key, call_timeout=call_timeout)

    def part(self, kind: type[Part]) -> Part:
        """A repository that shares this store's channel, and calls as it does."""
        made = kind(self.channel, namespace=self.namespace)
        made.caller = self.caller
        return made

    async def close_channel(self) -> None:
        """Closes the channel, also for those who share it."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        """Gives the store."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channel."""
        await self.close_channel()

    async def call(self, method: Callable[..., Awaitable[Response]], request: Message) -> Response:
        """Calls an RPC, with a request id if it takes one. Raises `ServiceError`."""
        collect = COLLECTING.get()
        if collect is not None and not request.DESCRIPTOR.name.startswith(_READS):
            answer: Response = await collect(request)
            return answer
        names = request.DESCRIPTOR.fields_by_name
        given: Any = request
        if "request_id" in names and not given.request_id:
            given.request_id = uuid7()
        return await self.caller.call(method, request)

    async def every(self, method: Callable[..., Awaitable[Any]], request: Message, field: str) -> list[Any]:
        """All entries of a list, from as many pages as it has."""
        return await self.window(method, request, field, limit=None)

    async def window(
        self, method: Callable[..., Awaitable[Any]], request: Message, field: str, *, limit: int | None, offset: int = 0
    ) -> list[Any]:
        """So many entries of a list behind the first `offset`. `offset` is at most 10,000, if the list can skip."""
        found: list[Any] = []
        asked: Any = request
        if offset:
            asked.skip = offset
        while limit is None or len(found) < limit:
            asked.page_size = _LARGEST_PAGE if limit is None else min(limit - len(found), _LARGEST_PAGE)
            page = await self.call(method, request)
            found += getattr(page, field)
            if not page.next_page_token:
                break
            asked.page_token = page.next_page_token
            if offset:
                asked.skip = 0
        return found


def payload_of(value: object) -> Payload:
    """The payload of a value that is JSON; `None` has no body. Raises `ConversionError`."""
    return _JSON.to_payload(value)


def value_of(payload: Payload) -> Any:  # noqa: ANN401 - any JSON
    """The value in a payload. Raises `ConversionError` if it is not JSON."""
    return _JSON.from_payload(payload)


def stamp(time: dt.datetime | float | None) -> Timestamp | None:
    """A time, or seconds since 1970, as the protocol has it. Raises `ValueError` for a time without a zone."""
    if time is None or isinstance(time, dt.datetime):
        return timestamp(time)
    result = Timestamp()
    result.FromNanoseconds(round(time * 1_000_000) * 1000)
    return result


def span(length: dt.timedelta | float | None) -> Duration | None:
    """A length of time, or seconds, as the protocol has it."""
    if length is None:
        return None
    result = Duration()
    result.FromTimedelta(length if isinstance(length, dt.timedelta) else dt.timedelta(seconds=length))
    return result


def time_of(message: Any, field: str) -> dt.datetime | None:  # noqa: ANN401 - any message
    """A message's time in UTC, or `None` if it has none."""
    return getattr(message, field).ToDatetime(dt.UTC) if message.HasField(field) else None


def seconds_of(message: Any, field: str) -> float | None:  # noqa: ANN401 - any message
    """A message's time in seconds since 1970, or `None` if it has none."""
    return getattr(message, field).ToMicroseconds() / 1e6 if message.HasField(field) else None
