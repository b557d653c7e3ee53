"""Lines of the log: structured, about runs and traces, and without what is nobody's business."""

from __future__ import annotations

import json
import logging
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grpc.aio
import pytest
import structlog
from sqlalchemy.exc import DBAPIError
from tests.chaos.kit import free_port
from tests.service import refusal
from tests.stream.code import Code
from tests.stream.kit import ACTIVITY, RUN, SECONDS, capacity, hello, until
from tests.stream.wire import Wire
from tests.telemetry.collectors import over_grpc, over_http
from tests.telemetry.seen import CALLER
from tests.telemetry.test_counting import served

from stepwell.v1 import runs_pb2, types_pb2
from stepwell.v1.workers_pb2 import FailActivity, TaskHeartbeat
from stepwell_server import telemetry
from stepwell_server.settings import Settings
from stepwell_server.store.database import Database
from stepwell_server.store.faults import Rejected
from stepwell_server.store.statements import Statement

HIDDEN = "h1dden-words"
RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(params=["json", "console"])
def told(request: pytest.FixtureRequest) -> StringIO:
    stream = StringIO()
    telemetry.set_up_logs("debug", request.param, stream)
    return stream


def test_contents_and_secrets_are_left_out(told: StringIO) -> None:
    """Of our own lines and of libraries'; run and trace are there."""
    with telemetry.about(RUN_ID, CALLER):
        logging.getLogger("library").warning("odd", extra={"payload": HIDDEN, "authorization": HIDDEN})
        structlog.get_logger("own").info("done", body=HIDDEN.encode(), payload=HIDDEN, count=3)
    text = told.getvalue()
    assert HIDDEN not in text
    assert f"[{len(HIDDEN)} bytes]" in text
    assert text.count(RUN_ID) == text.count(CALLER[3:35]) == 2


def test_peers_that_left_are_no_errors(told: StringIO) -> None:
    """Each has a line of gRPC's own."""
    grpc_log = logging.getLogger("grpc._cython.cygrpc")
    grpc_log.error("ExecuteBatchError raised in core by servicer method [/stepwell.v1.RunService/StartRun]")
    grpc_log.error("something else")
    assert [line for line in told.getvalue().splitlines() if "servicer" in line] == []
    assert "something else" in told.getvalue()


ERRORS = [
    asyncpg.CheckViolationError.new(
        {"S": "ERROR", "V": "ERROR", "C": "23514", "M": f"row {HIDDEN}", "D": f"Failing row contains ({HIDDEN})."}
    ),
    DBAPIError(f"INSERT {HIDDEN}", {"p": HIDDEN}, Exception(HIDDEN)),
    ValueError(HIDDEN),
    KeyError(HIDDEN),
    UnicodeDecodeError("utf-8", HIDDEN.encode(), 0, 1, HIDDEN),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_do_not_repeat_what_they_were_given(told: StringIO, error: Exception) -> None:
    """Nor do those that they led to; their stacks are there all the same."""
    local = HIDDEN
    try:
        try:
            raise error.with_traceback(None)
        except Exception as cause:
            raise RuntimeError("ours") from cause
    except RuntimeError:
        structlog.get_logger("own").exception("went wrong")
        logging.getLogger("library").exception("too")
    text = told.getvalue()
    assert local not in text
    assert text.count(type(error).__name__) >= 2
    assert text.count("RuntimeError: ours") == 2
    assert text.count("raise error.with_traceback") == 2


async def test_what_the_database_says_of_a_row_stays_there(database_url: str) -> None:
    """Nor is repeated what the driver could not encode; that is the batch's own fault, and no lost connection."""
    database = Database(Settings(database_url=database_url))
    connection = await database.connect()
    await connection.raw.execute(f"CREATE TABLE words (word text, number int, CHECK (word <> '{HIDDEN}'))")
    insert = Statement("words", "insert", "INSERT INTO words VALUES ($1, $2)", "")
    for arguments in ((HIDDEN, 1), ("other", HIDDEN), (HIDDEN, 2**40)):
        with pytest.raises(Rejected) as raised:
            await connection.fetch(insert, *arguments)
        assert HIDDEN not in str(raised.value)
        assert str(2**40) not in str(raised.value)
    assert not connection.closed
    await connection.close()
    await database.close()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_service_that_tells_all_tells_no_payload_and_no_secret(
    tmp_path: Path, database_url: str, protocol: str
) -> None:
    """At DEBUG, with payloads wherever there may be some, keys of all kinds, and rows that the database refuses."""
    over = over_grpc if protocol == "grpc" else over_http
    with over() as collector:
        otel = {
            "EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "EXPORTER_OTLP_PROTOCOL": protocol,
            "EXPORTER_OTLP_HEADERS": f"authorization=Bearer {HIDDEN}",
        }
        async with served(tmp_path, database_url, free_port(), otel, LOG_LEVEL="debug") as (_, replica):
            run_id = await lived(replica)
            await refuse_rows(database_url)
            call = replica.runs.StartRun(start(), timeout=SECONDS, metadata=KEYS)
            assert await refusal(call) == ("INTERNAL", "INTERNAL_ERROR")
        assert HIDDEN in str(collector.headers)
    text = (tmp_path / "server.log").read_text()
    assert HIDDEN not in text
    assert HIDDEN.encode().hex() not in text
    assert (urlsplit(database_url).password or HIDDEN) not in text
    lines = [json.loads(line) for line in text.splitlines()]
    mine = [line for line in lines if line.get("run_id") == run_id]
    assert {"run started", "task claimed", "run ended"} <= {line["event"] for line in mine}
    assert {line["trace_id"] for line in mine} == {CALLER[3:35]}
    (refused,) = [line for line in lines if line["event"] == "command refused by the database"]
    (failed,) = [line for line in lines if line["event"] == "call.failed"]
    assert refused["cause"].startswith("CheckViolationError 23514")
    assert (failed["error_id"], failed["trace_id"]) == (refused["error_id"], CALLER[3:35])


KEYS = (("traceparent", CALLER), ("authorization", f"Bearer {HIDDEN}"))


def start() -> runs_pb2.StartRunRequest:
    return runs_pb2.StartRunRequest(type="wf", task_queue="q", input=hidden())


def hidden() -> types_pb2.Payload:
    return types_pb2.Payload(json=json.dumps(HIDDEN), metadata={"key": HIDDEN})


async def lived(replica: Any) -> str:
    """A run with something to hide at each turn; and calls that are refused."""
    run_id = str((await replica.runs.StartRun(start(), timeout=SECONDS, metadata=KEYS)).run_id)
    stream = await Wire(replica, hello("w", capacity=capacity(runs=1, activities=1))).open(is_lively=False)
    code = Code(stream, await stream.task(RUN))
    await code.wait(code.activity(input=hidden()), code.wait_for("go"), code.local(HIDDEN))
    task = await stream.task(ACTIVITY)
    await stream.say(heartbeats=[TaskHeartbeat(ref=task.ref, details=hidden())])
    await stream.next("heartbeats")
    failure = types_pb2.Failure(message=HIDDEN, details=hidden(), non_retryable=True)
    await stream.report(task.ref, fail=FailActivity(failure=failure))
    await replica.signal(run_id, "go", HIDDEN)
    await code.complete(value=HIDDEN)
    await until(lambda: ended(replica, run_id))
    too_much = runs_pb2.StartRunRequest(type="wf", input=types_pb2.Payload(data=HIDDEN.encode() * 300_000))
    for request in (too_much, runs_pb2.StartRunRequest(type="", input=hidden())):
        with pytest.raises(grpc.aio.AioRpcError):
            await replica.runs.StartRun(request, timeout=SECONDS, metadata=KEYS)
    await stream.half_close()
    return run_id


async def ended(replica: Any, run_id: str) -> bool:
    return bool((await replica.run(run_id)).phase == types_pb2.RUN_PHASE_COMPLETED)


async def refuse_rows(url: str) -> None:
    """From here on the database refuses events with payloads, and says which."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "stepwell"})
    try:
        await connection.execute("ALTER TABLE events ADD CHECK (payload IS NULL) NOT VALID")
    finally:
        await connection.close()
