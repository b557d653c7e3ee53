"""What callers see of refusals, faults and deadlines, over a real server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from tests.api.handlers import KINDS, RUN_ID, SERVICE, call, details, raising, refused, serving, unpacked

from stepwell_server.api.interceptors import errors as errors_module
from stepwell_server.api.interceptors.deadlines import remaining, wait_seconds
from stepwell_server.api.interceptors.errors import as_refusal, to_status
from stepwell_server.errors import DatabaseUnavailable, InvalidFields, QueueFull, RunNotFound
from stepwell_server.store.faults import NoConnectionFree


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_is_a_rich_status_in_every_kind_of_call(kind: str) -> None:
    """A declared refusal arrives with its code, message, and exactly one ErrorInfo."""
    refusal = RunNotFound(namespace="main", run_id=RUN_ID)
    async with serving(raising(refusal)) as channel:
        error = await refused(channel, kind)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == f"Run {RUN_ID} does not exist in namespace main."
    status = details(error)
    assert (status.code, status.message) == (5, error.details())
    (info,) = unpacked(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("RUN_NOT_FOUND", "stepwell.dev")
    assert info.metadata == {"namespace": "main", "run_id": str(RUN_ID)}
    assert len(status.details) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_does_well_passes_unchanged(kind: str) -> None:
    """Interceptors leave the answers of every kind of call as they are."""

    async def act(context: Any) -> None:
        await asyncio.sleep(0)

    async with serving(act) as channel:
        for _ in range(2):
            assert await call(channel, kind) == [b"done" if kind.endswith("Unary") else b"first"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_shows_an_id_and_nothing_else(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody declared is INTERNAL; the caller sees an id under which the log has the stack."""
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(errors_module.log, "error", lambda event, **facts: logged.append({"event": event, **facts}))
    async with serving(raising(ValueError("the secret is xyzzy"))) as channel:
        error = await refused(channel, kind)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "xyzzy" not in repr(error)
    (info,) = unpacked(details(error), error_details_pb2.ErrorInfo)
    (line,) = logged
    assert info.reason == "INTERNAL_ERROR"
    assert info.metadata["error_id"] == line["error_id"]
    assert line["method"] == f"/{SERVICE}/{kind}"
    assert isinstance(line["exc_info"], ValueError)


async def test_what_a_handler_aborts_itself_stays() -> None:
    """A handler of another library (health's, say) may abort with a status of its own."""

    async def act(context: Any) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    async with serving(act) as channel:
        error = await refused(channel)
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "gone")


async def test_the_generated_default_is_unimplemented() -> None:
    """A method that nobody wrote yet is not the service's fault."""
    async with serving(raising(NotImplementedError())) as channel:
        error = await refused(channel)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_who_goes_away_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancellation reaches the handler, and nothing is logged."""
    monkeypatch.setattr(errors_module.log, "error", lambda *_, **__: pytest.fail("logged"))
    began, ended = asyncio.Event(), asyncio.Event()

    async def act(context: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(act) as channel:
        waiting = channel.unary_unary(f"/{SERVICE}/UnaryUnary")(b"ask")
        await began.wait()
        waiting.cancel()
        await asyncio.wait_for(ended.wait(), 60)


def test_fields_at_fault_are_named() -> None:
    """Violations travel as BadRequest, at most eight of them with the count of the rest."""
    status = to_status(InvalidFields(violations=tuple((f"field{n}", "is wrong") for n in range(10))))
    (bad_request,) = unpacked(status, error_details_pb2.BadRequest)
    assert [violation.field for violation in bad_request.field_violations] == [*(f"field{n}" for n in range(8)), ""]
    assert bad_request.field_violations[0].description == "is wrong"
    assert bad_request.field_violations[-1].description == "and 2 more"


def test_when_to_try_again_is_told() -> None:
    """`retry_seconds` travels as RetryInfo."""
    (retry,) = unpacked(to_status(QueueFull(queue="committer")), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 0.5
    assert not unpacked(to_status(QueueFull(queue="c", retry_seconds=None)), error_details_pb2.RetryInfo)


def test_a_status_fits_into_trailers() -> None:
    """Peers drop trailers beyond 8 KiB, so long words are cut."""
    status = to_status(InvalidFields(violations=tuple(("f" * 9_000, "p" * 9_000) for _ in range(50))))
    assert status.ByteSize() < 12_000
    assert to_status(RunNotFound(namespace="n" * 9_000, run_id="r" * 9_000)).ByteSize() < 2_048


class _DriverError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__()
        self.sqlstate = sqlstate


class _WrappedError(Exception):
    def __init__(self, orig: Exception, *, connection_invalidated: bool = False) -> None:
        super().__init__()
        self.orig = orig
        self.connection_invalidated = connection_invalidated


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(), "DATABASE_UNAVAILABLE"),
        (_DriverError("08006"), "DATABASE_UNAVAILABLE"),
        (_WrappedError(_DriverError("57P01")), "DATABASE_UNAVAILABLE"),
        (_WrappedError(ValueError(), connection_invalidated=True), "DATABASE_UNAVAILABLE"),
        (_WrappedError(_DriverError("40P01")), "DATABASE_CONTENDED"),
        (_DriverError("57014"), "CALL_TIMED_OUT"),
        (TimeoutError(), "CALL_TIMED_OUT"),
        (NoConnectionFree(), "QUEUE_FULL"),
        (_DriverError("23505"), "INTERNAL_ERROR"),
        (KeyError("x"), "INTERNAL_ERROR"),
        (DatabaseUnavailable(), "DATABASE_UNAVAILABLE"),
    ],
)
def test_the_database_s_troubles_are_told_apart(error: Exception, reason: str) -> None:
    """Disconnects, contention and slow statements are answers of their own; other errors of the database are faults."""
    assert as_refusal(error).reason == reason


async def test_a_call_has_an_end() -> None:
    """A unary call without a deadline ends after the maximum; a deadline of its own is passed on."""
    seen: list[float] = []

    async def act(context: Any) -> bytes:
        seen.append(remaining())
        seen.append(wait_seconds(None, default=20))
        await asyncio.sleep(1.0 if len(seen) > 2 else 0)
        return b"done"

    async with serving(act, maximum=0.3) as channel:
        await call(channel, deadline=0.09)
        error = await refused(channel, deadline=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert unpacked(details(error), error_details_pb2.ErrorInfo)[0].reason == "CALL_TIMED_OUT"
    # On its way a deadline is rounded up.
    assert 0 < seen[1] < seen[0] < 0.2


async def test_no_more_calls_than_may_be_are_under_way() -> None:
    """One beyond is told when to come again; a stream is none of them; who is done or gone makes room."""
    entered, leave = asyncio.Event(), asyncio.Event()
    inside = 0

    async def act(context: Any) -> bytes:
        nonlocal inside
        inside += 1
        if inside == 2:
            entered.set()
        await leave.wait()
        return b"done"

    async with serving(act, at_once=2) as channel:
        first, second = asyncio.ensure_future(call(channel)), asyncio.ensure_future(call(channel))
        await asyncio.wait_for(entered.wait(), 60)
        error = await refused(channel)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        (info,) = unpacked(details(error), error_details_pb2.ErrorInfo)
        assert (info.reason, info.metadata) == ("QUEUE_FULL", {"queue": "calls"})
        assert unpacked(details(error), error_details_pb2.RetryInfo)
        leave.set()
        assert await call(channel, "StreamStream") == [b"first"]
        assert await first == await second == [b"done"]
        for _ in range(3):
            assert await call(channel) == [b"done"]


def test_a_wait_ends_before_its_caller_gives_up() -> None:
    """Waits have a default and a maximum, and without a call nothing else bounds them."""
    assert remaining(5) == 5
    assert wait_seconds(None, default=20) == 20
    assert wait_seconds(3, default=20) == 3
    assert wait_seconds(500, default=20) == 60
    assert wait_seconds(0, default=20) == 0


@pytest.mark.parametrize("is_refused", [False, True])
async def test_writing_to_a_peer_that_is_gone_is_no_fault(monkeypatch: pytest.MonkeyPatch, is_refused: bool) -> None:
    """A stream may end under the hands of its writer, or of whoever refuses it."""
    monkeypatch.setattr(errors_module.log, "error", lambda *_, **__: pytest.fail("logged"))
    told: list[str] = []
    monkeypatch.setattr(errors_module.log, "info", lambda event, **_: told.append(event))
    began, ended = asyncio.Event(), asyncio.Event()

    async def act(context: Any) -> None:
        began.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        context.add_done_callback(lambda _: ended.set())
        if is_refused:
            raise QueueFull(queue="stream")
        await context.write(b"late")

    async with serving(act) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/UnaryWriter")(b"ask")
        await began.wait()
        stream.cancel()
        await asyncio.wait_for(ended.wait(), 60)
    assert told == ["call.abandoned"]
