"""What took longer than it should, one line in the log each: calls, batches, statements, rounds of a loop.

A database that has become slow makes everything slow at once. So that this does not fill the log too, of each kind so
many are told at most in a while, and the next line after that says how many were left out; the counter has all.
"""

from __future__ import annotations

import math
import time

import structlog

from stepwell_server.telemetry import metrics
from stepwell_server.telemetry.calls import current
from stepwell_server.telemetry.contexts import caller_context
from stepwell_server.telemetry.logs import about_call

_log = structlog.get_logger("stepwell.slow")
MOST, WHILE_SECONDS = 10, 10.0


class _Window:
    """How many of one kind were told since when, and how many were not."""

    __slots__ = ("began", "left_out", "told")

    def __init__(self) -> None:
        self.began = -math.inf
        self.told = 0
        self.left_out = 0

    def has_room(self, now: float) -> bool:
        """Whether one more may be told."""
        if now - self.began >= WHILE_SECONDS:
            self.began, self.told = now, 0
        if self.told >= MOST:
            self.left_out += 1
            return False
        self.told += 1
        return True


class Slow:
    """See the module. Whoever measures compares with `seconds` first: nothing else is done for what is quick."""

    def __init__(self) -> None:
        self.seconds = math.inf
        self._windows: dict[str, _Window] = {}

    def set_seconds(self, seconds: float) -> None:
        """From how long on something is slow; 0: nothing is."""
        self.seconds = seconds or math.inf

    def tell(self, kind: str, name: str, took: float, **facts: object) -> None:
        """Tells of one. Durations among the facts are in seconds."""
        metrics.count_slow(kind)
        window = self._windows.setdefault(kind, _Window())
        if not window.has_room(time.monotonic()):
            return
        if window.left_out:
            facts["left_out"], window.left_out = window.left_out, 0
        call = current.get()
        if call is not None and kind != "call":
            facts["method"] = call.method
        traceparent = "" if call is None else caller_context(call.context.invocation_metadata() or ())[0]
        with about_call(traceparent):
            _log.warning("slow", kind=kind, name=name, seconds=round(took, 3), **facts)


slow = Slow()


def rounded(**parts: float) -> dict[str, float]:
    """Durations as they are told."""
    return {name: round(seconds, 3) for name, seconds in parts.items()}
