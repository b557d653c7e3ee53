"""Unary calls: which one is under way, how many there were, and how long they took.

They are counted by hand, since prometheus_client's counters cost several times as much, and are told to Prometheus when
it asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from itertools import accumulate
from typing import Any

import msgspec
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from stepwell_server.telemetry.metrics import LATENCIES, registry

_PACKAGE = "/stepwell.v1."
_LES = [*(str(bound) for bound in LATENCIES), "+Inf"]


class Call(msgspec.Struct):
    """A unary call under way. `context` is gRPC's; `waits` if it was asked to wait for something."""

    method: str
    context: Any
    waits: bool = False
    parts: Mapping[str, float] | None = None
    """Of its batch of commands, if that was slow: how long each part took, in seconds."""


current: ContextVar[Call | None] = ContextVar("call", default=None)
"""The call for which the present task works, or which began it."""


class Tally:
    """The calls of one method."""

    __slots__ = ("buckets", "codes", "seconds")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.buckets = [0] * len(_LES)
        self.seconds = 0.0

    def count(self, code: str, seconds: float | None) -> None:
        """Counts a call with the name of its status, and how long it took, if that is to be told."""
        self.codes[code] = self.codes.get(code, 0) + 1
        if seconds is not None:
            self.buckets[bisect_left(LATENCIES, seconds)] += 1
            self.seconds += seconds


class _Tallies(Collector):
    """All of them, as Prometheus sees them. It asks from a thread of its own."""

    def __init__(self) -> None:
        self._of: dict[str, Tally] = {}

    def of(self, method: str) -> Tally:
        """That of a method, named as `Service/Method`."""
        tally = self._of.get(method)
        if tally is None:
            tally = self._of[method] = Tally()
        return tally

    def describe(self) -> Iterable[Metric]:
        """Both, without samples."""
        return _families()

    def collect(self) -> Iterable[Metric]:
        """Both."""
        calls, seconds = _families()
        for method, tally in list(self._of.items()):
            for code, count in list(tally.codes.items()):
                calls.add_metric([method, code], count)
            counted = list(accumulate(tally.buckets))
            if counted[-1]:
                seconds.add_metric([method], list(zip(_LES, counted, strict=True)), tally.seconds)
        return calls, seconds


def _families() -> tuple[CounterMetricFamily, HistogramMetricFamily]:
    return (
        CounterMetricFamily("stepwell_calls", "Unary calls answered, by status.", labels=("method", "code")),
        HistogramMetricFamily(
            "stepwell_call_seconds",
            "Time from when a unary call was taken in until it was answered; not of those that were asked to wait.",
            labels=("method",),
        ),
    )


tallies = _Tallies()
registry.register(tallies)


def name_of(method: str) -> str:
    """The name under which a method is told of: `Service/Method`."""
    return method.removeprefix(_PACKAGE)
