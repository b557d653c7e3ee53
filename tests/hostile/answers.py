"""What a call was answered: which codes are the service's fault, answers within others, and the fields named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

BAD = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "UNIMPLEMENTED", "DEADLINE_EXCEEDED", "DATA_LOSS"}
BAD_CODES = {code.value[0]: code.name for code in grpc.StatusCode if code.name in BAD}


def statuses(message: Message) -> Iterator[Status]:
    """The statuses within an answer."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else (value,):
            if isinstance(item, Status):
                yield item
            else:
                yield from statuses(item)


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that a refusal names."""
    bad = error_details_pb2.BadRequest()
    trailers = dict(error.trailing_metadata() or ())
    for detail in Status.FromString(trailers["grpc-status-details-bin"]).details:
        detail.Unpack(bad)
    return [violation.field for violation in bad.field_violations]


def alarming(logs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the service wrote that tells of a fault of its own. A slow machine makes a leader resign."""
    levels = ("error", "critical", "warning")
    return [entry for entry in logs if entry["log_level"] in levels and entry["event"] not in {"resigned", "slow"}]
