"""The order in which commands come back from aside."""

from __future__ import annotations

import asyncio
import time

from stepwell_server.engine.committer.waiting import Entry, Waiting
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import RunRef


def _entry(name: str) -> Entry:
    entry = Entry(SignalRun(RunRef(1, "main", 7), name, NULL), None, 1, time.monotonic() + 10)
    entry.key = 7
    return entry


async def test_what_was_aside_goes_before_what_came_later() -> None:
    """A command that arrives while an earlier one of its run is aside does not overtake it."""
    waiting = Waiting(100, 100)
    aside, later = [_entry("a"), _entry("b")], [_entry("c"), _entry("d")]
    for entry in aside:
        assert waiting.set_aside(entry)
    for entry in later:
        waiting.add(entry)
    while not waiting.aside[7].due <= time.monotonic():  # noqa: ASYNC110 - due is a moment, not an event
        await asyncio.sleep(0)
    assert waiting.take(10, 100) == [*aside, *later]
