"""Calls to the service: channel, credentials, deadlines, and what is tried again."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from os import urandom
from typing import TypeVar

import grpc

from stepwell import _handshakes, errors, reasons
from stepwell._proofs import ApiKey, Metadata, Proof

Response = TypeVar("Response")

SDK = f"stepwell-python/{importlib.metadata.version('stepwell')}"

# Seconds.
ATTEMPT_TIMEOUT = 20.0
BACKOFF_FIRST, BACKOFF_MAX = 0.05, 5.0
_PROBE_TIMEOUT = 1.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A name whose every address has gone is looked up again at once, not after half a minute: in that time all replicas
    # may have been replaced.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # gRPC's own retries know nothing of reasons.
    ("grpc.enable_retries", 0),
)
# Addresses that may stand for several replicas. Calls go round those whose health says that they serve, so that one
# which leaves is passed over before it refuses anything. A stream needs one connection only: to any, drawn by lot.
_SEVERAL = ("dns:", "ipv4:", "ipv6:")
_IN_TURN = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
_ANY = {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None, *, is_alone: bool = False
) -> grpc.aio.Channel:
    """Opens a channel; one that stands alone shares its connection with no other, and is to one replica."""
    options: tuple[tuple[str, str | int], ...] = _OPTIONS
    if is_alone:
        options = (*options, ("grpc.use_local_subchannel_pool", 1))
    if address.startswith(_SEVERAL):
        options = (*options, ("grpc.service_config", json.dumps(_ANY if is_alone else _IN_TURN)))
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


async def wait_ready(channel: grpc.aio.Channel, address: str, seconds: float) -> None:
    """Waits until a channel is connected. Raises `Unavailable`, at once when no later try can do better."""
    why = ""
    try:
        async with asyncio.timeout(seconds):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    why = await _last_failure(channel)
                    if advice := _handshakes.certain_advice(why):
                        raise errors.Unavailable(f"no connection to {address}: {advice}")
                await channel.wait_for_state_change(state)
    except TimeoutError:
        start = "start one with `stepwell-server dev`, or check the address"
        raise errors.Unavailable(f"no service answers at {address}: {_handshakes.advice(why) or start}") from None


async def _last_failure(channel: grpc.aio.Channel) -> str:
    """How gRPC tells of it: only to a call."""
    check: Callable[..., Awaitable[object]] = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        await check(b"", timeout=_PROBE_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        return error.details() or ""
    return ""


def is_passing(error: errors.ServiceError) -> bool:
    """Tells whether the same call may succeed a little later."""
    if isinstance(error, errors.ResourceExhausted):
        return error.retry_seconds is not None
    if error.code is grpc.StatusCode.CANCELLED:
        # What a server had not taken in yet when it ended. Who cancels a call of its own gets no such error.
        return True
    return isinstance(error, errors.Unavailable | errors.Aborted | errors.DeadlineExceeded)


def backoff(attempt: int, error: errors.ServiceError) -> float:
    """Gives the seconds before the next attempt, counted from 0: full jitter, on top of the service's advice."""
    jitter = random.uniform(0, min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(attempt, 16)))
    return jitter + (error.retry_seconds or 0.0)


class Caller:
    """Makes unary calls, and repeats those that fail in passing until their time is over.

    What `call` makes is safe to repeat: it names what it makes, says what shall be, or has a request id.
    """

    __slots__ = ("_timeout", "proof")

    def __init__(self, api_key: ApiKey | None, timeout: float) -> None:
        """Keeps the key, by default that of the environment, and the seconds that a call may take in all."""
        self.proof = Proof(api_key)
        self._timeout = timeout

    @property
    def metadata(self) -> Metadata:
        """What goes along with a call."""
        return self.proof.metadata

    async def once(self, method: Callable[..., Awaitable[Response]], request: object, seconds: float) -> Response:
        """Calls a method whose repeat would do something else. Raises `ServiceError`, also after so many seconds."""
        try:
            return await method(request, timeout=seconds, metadata=self.metadata)
        except grpc.RpcError as raised:
            raise reasons.from_rpc(raised) from None

    async def call(
        self,
        method: Callable[..., Awaitable[Response]],
        request: object,
        *,
        traceparent: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 - the repeats' time, not one wait's
    ) -> Response:
        """Calls a method. Raises `ServiceError` when the service refuses, or when the time is over."""
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        attempt = 0
        while True:
            left = end - time.monotonic()
            metadata = (*self.metadata, ("traceparent", traceparent)) if traceparent else self.metadata
            try:
                return await method(request, timeout=min(ATTEMPT_TIMEOUT, max(left, 0.001)), metadata=metadata)
            except grpc.RpcError as raised:
                error = reasons.from_rpc(raised)
            delay = backoff(attempt, error)
            if not is_passing(error) or time.monotonic() + delay >= end:
                raise error
            await asyncio.sleep(delay)
            attempt += 1


_latest = 0


def uuid7(ending: str = "") -> str:
    """Makes a UUIDv7, greater than every earlier one of this process, as text.

    `ending` is some hexadecimal digits for it to end with; those before it are as random as ever.
    """
    global _latest  # noqa: PLW0603 - the order is a property of the process
    stamp = time.time_ns() * 4096 // 1_000_000
    _latest = stamp = stamp if stamp > _latest else _latest + 1
    value = (stamp >> 12) << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 2 << 62 | int.from_bytes(urandom(8)) >> 2
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20 : 32 - len(ending)]}{ending}"


def start_ids(given: str | None, request_id: str, ending: str = "") -> tuple[str, str]:
    """The ids of what is started, empty where the service makes it from the request's, and of the request.

    A start whose caller named no request makes its own id, so that a repeat after a lost answer finds what it made; it
    ends as the client's watch asks for.
    """
    own = uuid_of(given) if given else ""
    if request_id:
        return own, request_id
    own = own or uuid7(ending)
    return own, own


def uuid_of(text: str) -> str:
    """Gives a UUID as the service spells it. Raises `ValueError` for other text."""
    return str(uuid.UUID(text))
