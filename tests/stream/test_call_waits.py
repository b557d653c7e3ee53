"""Who waits for a run's answer is counted, and there is an end to it."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from stepwell_server import errors
from stepwell_server.dispatch.call_waits import CallWaits
from stepwell_server.ids import uuid7
from stepwell_server.model.payloads import NULL
from stepwell_server.model.run_calls import CallKind, RunCall


def call(run_key: int) -> RunCall:
    return RunCall(uuid7(), run_key, CallKind.QUERY, "q", "", NULL, datetime.now(UTC))


async def test_one_too_many_is_refused_until_another_has_gone(monkeypatch: Any) -> None:
    """Of one run or of several: it is this replica's memory, and rows of `run_calls`, that are bounded."""
    monkeypatch.setattr("stepwell_server.dispatch.call_waits._MOST", 3)
    waits = CallWaits()
    with ExitStack() as others:
        for run_key in (1, 1):
            others.enter_context(waits.wait(call(run_key), 1.0))
        with waits.wait(call(2), 1.0), pytest.raises(errors.QueueFull), waits.wait(call(3), 1.0):
            pass
        with waits.wait(call(3), 1.0):
            pass
    assert waits._by_run == {}
