"""Trace contexts as the text that is stored and sent: a W3C `traceparent` and its `tracestate`.

What the service begins or goes on with is derived from what is recorded, and not drawn: every replica, also one that
has been restarted, names the span of a claim alike. So an attempt can link to the one before, and a heartbeat finds the
claim under which it was sent, though nobody stored either.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from hashlib import blake2b
from uuid import UUID

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?=-|\Z)")
_TRACEPARENT_CHARACTERS = 55
TRACE_ID, SPAN_ID, FLAGS = slice(3, 35), slice(36, 52), slice(53, 55)
_FLAG = 54
_SAMPLED = frozenset("13579bdf")
# The specification lets a longer one be dropped, whole.
_TRACESTATE_CHARACTERS = 512
_TRACE_BYTES, _SPAN_BYTES = 16, 8


def is_sampled(traceparent: str) -> bool:
    """Reads the flag of a trace context. What is no trace context is not sampled."""
    return len(traceparent) == _TRACEPARENT_CHARACTERS and traceparent[_FLAG] in _SAMPLED


def valid_traceparent(text: str) -> str:
    """Answers a trace context that came from outside, or nothing if it is none."""
    if not _TRACEPARENT.match(text) or (text.startswith("00") and len(text) != _TRACEPARENT_CHARACTERS):
        return ""
    # Later versions may append fields; the ones known stay where they are.
    return f"00{text[2:_TRACEPARENT_CHARACTERS]}"


def caller_context(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, str]:
    """Reads a caller's `traceparent` and `tracestate` from the metadata of a call; empty ones if it has none."""
    traceparent, states = "", []
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            traceparent = valid_traceparent(value)
        elif key == "tracestate" and isinstance(value, str):
            states.append(value)
    tracestate = ",".join(states)
    if not traceparent or len(tracestate) > _TRACESTATE_CHARACTERS or not tracestate.isascii():
        tracestate = ""
    return traceparent, tracestate


def drawn() -> str:
    """A new trace, sampled."""
    return rendered(random.getrandbits(128) or 1, random.getrandbits(64) or 1, is_sampled=True)


def rendered(trace_id: int, span_id: int, *, is_sampled: bool) -> str:
    """A trace context from its parts."""
    return f"00-{trace_id:032x}-{span_id:016x}-{int(is_sampled):02x}"


def child_of(traceparent: str) -> str:
    """A new span of the same trace."""
    return f"{traceparent[:36]}{random.getrandbits(64) or 1:016x}{traceparent[52:]}"


def with_flag(traceparent: str, *, is_sampled: bool) -> str:
    """A trace context with another decision in its flag."""
    flags = int(traceparent[FLAGS], 16)
    return f"{traceparent[:53]}{flags | 1 if is_sampled else flags & ~1:02x}"


def is_same_trace(one: str, other: str) -> bool:
    """Whether two contexts are of one trace."""
    return one[TRACE_ID] == other[TRACE_ID]


def of_claim(traceparent: str, run_id: UUID, run_key: int, ordinal: int, number: int) -> str:
    """The span of a claim: the `number`-th of that run or, with an ordinal, of that step, in the run's trace."""
    named = f"{traceparent[TRACE_ID]}/{run_id.int}/{run_key}/{ordinal}/{number}"
    span_id = int.from_bytes(blake2b(named.encode(), digest_size=_SPAN_BYTES).digest()) or 1
    return f"{traceparent[:36]}{span_id:016x}{traceparent[52:]}"


def of_successor(traceparent: str, run_id: UUID) -> str:
    """The new trace of a run that goes on with another's work; it is recorded if the other's is."""
    if not valid_traceparent(traceparent):
        return ""
    named = f"{traceparent}/{run_id.int}".encode()
    digest = blake2b(named, digest_size=_TRACE_BYTES + _SPAN_BYTES).digest()
    trace_id, span_id = int.from_bytes(digest[:_TRACE_BYTES]) or 1, int.from_bytes(digest[_TRACE_BYTES:]) or 1
    return rendered(trace_id, span_id, is_sampled=is_sampled(traceparent))
