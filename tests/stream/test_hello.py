"""How a stream begins, what breaks it, and how each side shows that it lives."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from tests.service import reason_of
from tests.stream.code import scheduled
from tests.stream.kit import ACTIVITY, SECONDS, Replica, capacity, hello, replica
from tests.stream.wire import Wire, types_status, wire

from stepwell.v1.workers_pb2 import ConnectRequest, Report, TaskHeartbeat, TaskRef


async def refused(one: Replica, *messages: ConnectRequest) -> tuple[str, str]:
    """The code and the reason with which a stream that begins so is ended."""
    call: Any = one.workers.Connect(timeout=SECONDS)
    for message in messages:
        await call.write(message)
    if not messages:
        await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    trailers = dict(raised.value.trailing_metadata() or ())
    return raised.value.code().name, reason_of(types_status(trailers["grpc-status-details-bin"]))


@pytest.mark.parametrize("first", [[], [ConnectRequest(ping=1)], [ConnectRequest(capacity=capacity(runs=1))]])
async def test_a_stream_without_a_hello_first_is_invalid(shared: Replica, first: list[ConnectRequest]) -> None:
    assert await refused(shared, *first) == ("INVALID_ARGUMENT", "INVALID_FIELD")


@pytest.mark.parametrize(
    ("greeting", "expected"),
    [
        (hello(task_queues=[]), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (hello(""), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (hello(namespace="nowhere"), ("NOT_FOUND", "NAMESPACE_NOT_FOUND")),
        (hello(session_id="no-uuid"), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (hello(session_id=str(uuid4())), ("FAILED_PRECONDITION", "SESSION_EXPIRED")),
    ],
    ids=["no queue", "no worker id", "unknown namespace", "wrong session id", "unknown session"],
)
async def test_a_hello_that_will_not_do(shared: Replica, greeting: Any, expected: tuple[str, str]) -> None:
    assert await refused(shared, ConnectRequest(hello=greeting)) == expected


async def test_the_welcome_states_times_and_limits(one: Replica) -> None:
    async with wire(one) as stream:
        welcome = stream.welcome
        assert not welcome.resumed
        assert welcome.session_ttl.ToTimedelta().total_seconds() == 2
        assert welcome.heartbeat_interval.ToMilliseconds() == 500
        assert welcome.ack_timeout.ToMilliseconds() == 500
        assert welcome.max_items == 256


@pytest.mark.parametrize("field", ["acks", "reports", "heartbeats"])
async def test_more_than_256_items_of_a_field_are_invalid(shared: Replica, field: str) -> None:
    ref = TaskRef(task_id="1.1", token=1)
    items: dict[str, Any] = {
        "acks": [ref] * 257,
        "reports": [Report(correlation=number, ref=ref) for number in range(257)],
        "heartbeats": [TaskHeartbeat(ref=ref)] * 257,
    }
    async with wire(shared) as stream:
        await stream.say(**{field: items[field]})
        assert await stream.end() == "INVALID_ARGUMENT"
        assert await stream.reason() == "INVALID_FIELD"


async def test_256_items_are_taken(one: Replica) -> None:
    async with wire(one) as stream:
        await stream.say(acks=[TaskRef(task_id="1.1", token=1)] * 256)
        await stream.settled()
        assert stream.ended is None


async def test_a_ping_is_answered_in_band(one: Replica) -> None:
    async with wire(one) as stream:
        await stream.say(ping=4711)
        assert await stream.next("pong") == 4711


async def test_a_silent_worker_is_pinged_and_its_answer_is_a_sign_of_life(database_url: str) -> None:
    async with replica(database_url, ping_seconds=0.5) as one, wire(one, is_lively=False) as stream:
        for _ in range(3):
            number = await stream.next("ping")
            await stream.say(pong=number)
        assert stream.ended is None


async def test_a_worker_that_answers_no_ping_is_given_up(database_url: str) -> None:
    async with replica(database_url, ping_seconds=0.4) as one, wire(one, is_lively=False) as stream:
        await stream.next("ping")
        await stream.end()


async def test_any_message_extends_the_session(one: Replica) -> None:
    """Its end moves on with each sign of life, and is told once it is written."""
    async with wire(one) as stream:
        await stream.say(ping=1)
        first = await stream.next("session_expire_time")
        await stream.say(ping=2)
        later = await stream.next("session_expire_time", lambda told: told.ToDatetime() > first.ToDatetime())
        assert later.ToDatetime() > first.ToDatetime()


async def test_a_session_of_another_namespace_can_not_be_resumed(one: Replica) -> None:
    other = await one.namespace("other")
    async with wire(one) as stream:
        greeting = hello(namespace=other, session_id=stream.welcome.session_id)
        assert await refused(one, ConnectRequest(hello=greeting)) == ("FAILED_PRECONDITION", "SESSION_EXPIRED")


async def test_without_capacity_nothing_is_assigned(one: Replica) -> None:
    await scheduled(one)
    async with wire(one) as stream:
        await stream.settled()
        assert not stream.most[ACTIVITY]
        await stream.say(capacity=capacity(activities=1))
        await stream.task(ACTIVITY)


async def test_a_hello_may_state_the_capacity(one: Replica) -> None:
    await scheduled(one)
    stream = await Wire(one, hello(capacity=capacity(activities=1))).open()
    await stream.task(ACTIVITY)
    await stream.cut()
