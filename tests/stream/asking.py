"""Asking a run by hand: a worker that answers, a caller that is refused, and what is left in the table."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN, Replica, payload
from tests.stream.wire import Wire, types_status

from stepwell.v1 import types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import NewStep, QueryAnswer, ReportResult, Update, UpdateRejection

# Whoever answers at once is told from who waits for this to pass.
LONG = 14.0


def facts_of(status: Any) -> tuple[str, dict[str, str]]:
    """The reason in a status, and its facts."""
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.reason, dict(info.metadata)


async def refused(asking: Any) -> tuple[str, dict[str, str]]:
    """The reason for which a call is refused, and its facts."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    trailers = dict(caught.value.trailing_metadata() or ())
    return facts_of(types_status(trailers["grpc-status-details-bin"]))


async def rows(replica: Replica) -> int:
    """How many calls are left for others."""
    async with replica.service.dispatcher.reader.connection() as connection:
        found: int = await connection.raw.fetchval("SELECT count(*) FROM run_calls")
        return found


async def holding(stream: Wire, run_id: str = "", *, waits: bool = True) -> Code:
    """A run that its worker has, and keeps in memory while it waits."""
    code = Code(stream, await stream.task(RUN, run_id=run_id))
    if waits:
        assert (await code.wait(code.wait_for("go"))).status == ACCEPTED
    return code


async def answer(stream: Wire, value: Any = None, **fields: Any) -> workers_pb2.Query:
    """Answers the next query."""
    query: workers_pb2.Query = await stream.next("queries")
    given = fields or {"result": payload(value)}
    await stream.say(answers=[QueryAnswer(correlation=query.correlation, ref=query.ref, **given)])
    return query


async def told(code: Code) -> Update:
    """The one update of the next news."""
    (update,) = (await code.advance(lambda news: bool(news.updates))).updates
    return update


async def accept(code: Code, update: Update, value: Any = None, *also: NewStep) -> ReportResult:
    """Accepts an update and, with a value, completes it."""
    outcome = [] if value is None else [code.outcome(update.update_id, value)]
    return await code.wait(code.accept(update), *also, *outcome)


async def reject(code: Code, update: Update) -> ReportResult:
    failure = types_pb2.Failure(type="ValueError", message="no")
    rejection = UpdateRejection(update_id=update.update_id, failure=failure)
    return await code.stream.report(code.task.ref, progress=workers_pb2.Progress(rejections=[rejection], waiting=True))
