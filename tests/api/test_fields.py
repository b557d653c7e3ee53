"""What requests may hold: each check passes what is right, and names the field and the fix where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from stepwell.v1 import runs_pb2, types_pb2
from stepwell_server.api import fields as checks
from stepwell_server.api.fields import Fields
from stepwell_server.api.payloads import (
    failure_from_proto,
    failure_to_proto,
    fill_time,
    json_of_value,
    payload_from_proto,
    payload_to_proto,
)
from stepwell_server.errors import InvalidField
from stepwell_server.model.payloads import NULL, Payload
from stepwell_server.settings import Limits

FIELDS = Fields(Limits(payload_bytes=100, message_items=3))
RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
PHASE = types_pb2.RunPhase


def refusal(check: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """Answers which field was refused, and why."""
    with pytest.raises(InvalidField) as raised:
        check(*arguments, **named)
    ((field, problem),) = raised.value.field_violations()
    return f"{field} {problem}"


@pytest.mark.parametrize("text", ["a", "a b", "x" * 255, "schön", "名前", "\u00a0", "👩‍🚀", "ü" * 127])
def test_names_are_any_printable_text(text: str) -> None:
    assert FIELDS.name(text, "type") == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "type is required: give it 1 to 255 bytes of text"),
        ("x" * 256, "type has 256 bytes: give it at most 255"),
        ("ü" * 128, "type has 256 bytes: give it at most 255"),
        ("a\0b", "type holds the control character U+0000: leave it out"),
        ("a\nb", "type holds the control character U+000A: leave it out"),
        ("a\x7f", "type holds the control character U+007F: leave it out"),
        ("ü\x85", "type holds the control character U+0085: leave it out"),
    ],
)
def test_names_are_refused_with_the_fix(text: str, problem: str) -> None:
    assert refusal(FIELDS.name, text, "type") == problem
    if text:
        assert refusal(FIELDS.text, text, "type", "requests[3].") == f"requests[3].{problem}"


def test_text_may_be_empty_and_remarks_have_lines() -> None:
    assert FIELDS.text("", "workflow_id") == ""
    assert FIELDS.remark("one\n\ttwo", "reason") == "one\n\ttwo"
    assert refusal(FIELDS.remark, "a\0", "reason") == "reason holds the control character U+0000: leave it out"
    assert refusal(FIELDS.remark, "ü" * 4_000, "reason") == "reason has 8000 bytes: give it at most 4096"


def test_names_in_a_list_are_each_checked_and_unique() -> None:
    assert FIELDS.names(["b", "a", "b"], "task_queues") == ("b", "a")
    assert refusal(FIELDS.names, ["a", ""], "task_queues").startswith("task_queues[1] is required")
    assert refusal(FIELDS.names, [], "task_queues", at_least=1) == "task_queues must hold at least 1"
    assert refusal(FIELDS.items, [1] * 4, "requests").startswith("requests holds 4 items, and a message at most 3")


def test_namespaces_have_a_default_and_an_alphabet() -> None:
    assert [FIELDS.namespace(name) for name in ("", "main", "a.b-c_1")] == ["main", "main", "a.b-c_1"]
    assert FIELDS.any_namespace("-") is None
    assert FIELDS.any_namespace("") == "main"
    assert "takes no '-'" in refusal(FIELDS.namespace, "-")
    for name in ("a b", "ü", "a/b", "a\n", "x" * 256):
        assert refusal(FIELDS.namespace, name).startswith("namespace must be 1 to 255 letters")


def test_uuids_are_of_the_usual_form() -> None:
    assert checks.uuid(RUN_ID.upper(), "run_id") == UUID(RUN_ID)
    assert checks.optional_uuid("", "run_id") is None
    assert refusal(checks.uuid, "", "run_id") == "run_id is required: a UUID"
    for text in ("x", RUN_ID.replace("-", ""), "{" + RUN_ID + "}", RUN_ID + "\n", RUN_ID.replace("01890", "0_890")):
        assert refusal(checks.uuid, text, "run_id").startswith("run_id must be a UUID, such as")


def test_numbers_have_ranges() -> None:
    assert checks.integer(9, "priority", at_most=9) == 9
    assert refusal(checks.integer, 10, "priority", at_most=9) == "priority is 10: it must be 0 to 9"
    assert refusal(checks.integer, -1, "priority", "start.", at_most=9) == "start.priority is -1: it must be 0 to 9"


def test_enums_take_what_they_declare() -> None:
    assert FIELDS.member(3, PHASE, "phase") == 3
    assert FIELDS.member(0, PHASE, "phase") == 0
    assert refusal(FIELDS.member, 99, PHASE, "phase") == "phase is 99, which is not one of its values"
    assert "is required" in refusal(FIELDS.member, 0, PHASE, "phase", required=True)


def test_durations_are_seconds_within_reason() -> None:
    request = runs_pb2.StartRunRequest()
    assert checks.seconds(request, "run_timeout") is None
    request.run_timeout.CopyFrom(Duration(seconds=1, nanos=500_000_000))
    assert checks.seconds(request, "run_timeout") == 1.5
    for duration in (Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=10**12)):
        request.run_timeout.CopyFrom(duration)
        assert "it must be 0 to" in refusal(checks.seconds, request, "run_timeout")


def test_times_keep_microseconds() -> None:
    request = runs_pb2.Run()
    assert checks.time(request, "create_time") is None
    request.create_time.CopyFrom(Timestamp(seconds=1, nanos=2_999))
    assert checks.time(request, "create_time") == datetime(1970, 1, 1, 0, 0, 1, 2, tzinfo=UTC)
    request.create_time.CopyFrom(Timestamp(seconds=10**15))
    assert "from 1970 to 9899" in refusal(checks.time, request, "create_time")


def test_the_longest_delay_fits_behind_the_latest_time() -> None:
    request = runs_pb2.Run()
    request.create_time.FromDatetime(datetime(9899, 12, 31, 23, 59, 59))  # noqa: DTZ001 - it is UTC
    latest = checks.time(request, "create_time")
    assert latest is not None
    assert (latest + timedelta(seconds=checks.LONGEST_SECONDS)).year > 9900
    request.create_time.seconds += 1
    assert "from 1970 to 9899" in refusal(checks.time, request, "create_time")


@pytest.mark.parametrize(
    "message",
    [
        types_pb2.Payload(),
        types_pb2.Payload(json='{ "a":  1.0 }'),
        types_pb2.Payload(json=""),
        types_pb2.Payload(data=b"\0\xff", metadata={"encoding": "aes"}),
        types_pb2.Payload(metadata={"encoding": "null"}),
    ],
)
def test_payloads_come_back_to_the_letter(message: types_pb2.Payload) -> None:
    assert payload_to_proto(payload_from_proto(message, FIELDS, "input")) == message


@pytest.mark.parametrize(
    "time",
    [
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 28, 23, 59, 59, 1, UTC),
        datetime(9899, 12, 31, 1, 2, 3, 456_789, UTC),
        datetime(2026, 7, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_times_are_rendered_as_protobuf_does(time: datetime) -> None:
    theirs, ours = Timestamp(), Timestamp(seconds=7, nanos=7)
    theirs.FromDatetime(time)
    fill_time(ours, time)
    assert ours == theirs


def test_payloads_have_limits() -> None:
    def read(message: types_pb2.Payload) -> Payload:
        return payload_from_proto(message, FIELDS, "input", "start.")

    assert read(types_pb2.Payload()) is NULL
    assert payload_to_proto(None) is None
    assert refusal(read, types_pb2.Payload(json="ü" * 51)).startswith("start.input has 102 bytes, and a payload at")
    many = types_pb2.Payload(metadata={str(n): "" for n in range(17)})
    assert refusal(read, many).startswith("start.input.metadata has 17 entries")
    assert "start.input.metadata['a'] has 256" in refusal(read, types_pb2.Payload(metadata={"a": "x" * 256}))


def test_values_are_stored_as_json() -> None:
    """What grpcurl sends comes back as the same JSON; numbers without a fraction stay without."""
    plain = {"a": [1, 1.5, -3, 2.0**60, "ü", True, None, {}], "b": {"c": []}}
    stored = payload_from_proto(types_pb2.Payload(value=ParseDict(plain, Value())), FIELDS, "input")
    assert json.loads(stored.body) == plain
    assert b"[1,1.5,-3," in stored.body
    assert payload_to_proto(stored) == types_pb2.Payload(json=stored.body.decode())
    assert "which JSON cannot" in refusal(json_of_value, Value(number_value=float("nan")), "input.value")


def test_failures_are_cut_and_never_refused_for_their_text() -> None:
    message = types_pb2.Failure(
        message="m\0" * 20_000,
        type="ValueError",
        stack_trace="line\n",
        non_retryable=True,
        details=types_pb2.Payload(json="1"),
        next_retry_delay=Duration(seconds=2, nanos=500_000_000),
        timeout_kind=types_pb2.TIMEOUT_KIND_HEARTBEAT,
    )
    failure = failure_from_proto(message, FIELDS, "failure")
    assert len(failure.message) == 16_384
    assert "\0" not in failure.message
    assert failure.next_retry_seconds == 2.5
    back = failure_to_proto(failure)
    assert back is not None
    message.message = failure.message
    assert back == message
    assert failure_to_proto(None) is None
    assert failure_to_proto(failure_from_proto(types_pb2.Failure(), FIELDS, "failure")) == types_pb2.Failure()
    wrong = types_pb2.Failure(next_retry_delay=Duration(seconds=-1))
    assert refusal(failure_from_proto, wrong, FIELDS, "failure").startswith("failure.next_retry_delay is -1 s")
