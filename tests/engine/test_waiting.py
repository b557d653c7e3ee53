"""The order in which commands are taken: by turns of their namespaces, and first what comes back from aside."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from stepwell_server.engine.committer.waiting import Entry, Waiting
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import RunRef

LOUD, QUIET, THIRD = 1, 2, 3


def _entry(name: str) -> Entry:
    entry = Entry(SignalRun(RunRef(1, "main", 7), name, NULL), None, 1, time.monotonic() + 10)
    entry.key = 7
    return entry


def _of(namespace_id: int, count: int, size: int = 1) -> list[Entry]:
    order = SignalRun(RunRef(namespace_id, "main", 7), "s", NULL)
    return [Entry(order, None, size, time.monotonic() + 10, namespace_id) for _ in range(count)]


def _waiting(*entries: Entry, most: int = 1_000) -> Waiting:
    waiting = Waiting(most, most)
    for entry in entries:
        waiting.add(entry)
    return waiting


def _counts(entries: list[Entry]) -> dict[int | None, int]:
    return dict(Counter(entry.namespace_id for entry in entries))


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


async def test_what_is_aside_comes_back_though_timers_are_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of uvloop are. Where nothing else came it stayed aside until its time was over."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda delay, *rest: call_later(delay / 2, *rest))
    waiting, entry = Waiting(100, 100), _entry("a")
    entry.waits = 6
    assert waiting.set_aside(entry)
    async with asyncio.timeout(20):
        while not (taken := waiting.take(10, 100)):
            await waiting.more()
    assert taken == [entry]


def test_one_namespace_alone_fills_the_batch_in_its_order() -> None:
    """Turns are taken only where several ask."""
    entries = _of(LOUD, 300)
    assert _waiting(*entries).take(200, 1_000) == entries[:200]


def test_who_asks_for_little_is_in_the_next_batch_and_that_is_small() -> None:
    """Behind three hundred of another namespace; each keeps its order."""
    loud, quiet = _of(LOUD, 300), _of(QUIET, 3)
    taken = _waiting(*loud, *quiet).take(200, 1_000)
    assert _counts(taken) == {LOUD: 16, QUIET: 3}
    assert [entry for entry in taken if entry.namespace_id == QUIET] == quiet
    assert [entry for entry in taken if entry.namespace_id == LOUD] == loud[:16]


def test_batches_stay_small_for_a_while_after_namespaces_have_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes meanwhile of the quiet one must wait for all of the batch under way."""
    waiting = _waiting(*_of(LOUD, 600), *_of(QUIET, 1))
    waiting.take(200, 1_000)
    assert len(waiting.take(200, 1_000)) == 50
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.1)
    assert len(waiting.take(200, 1_000)) == 200


def test_equals_get_equal_shares() -> None:
    """As much as all have is shared out, up to the size of the batch."""
    waiting = _waiting(*_of(LOUD, 100), *_of(QUIET, 100), *_of(THIRD, 100))
    assert _counts(waiting.take(240, 1_000)) == {LOUD: 20, QUIET: 20, THIRD: 20}


def test_more_namespaces_than_a_batch_has_room_for_take_turns() -> None:
    """Who was not served is first the next time."""
    waiting = _waiting(*(entry for namespace_id in range(1, 9) for entry in _of(namespace_id, 2)))
    served = [[entry.namespace_id for entry in waiting.take(16, 1_000)] for _ in range(4)]
    assert served == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert len(waiting) == 0


def test_big_commands_of_one_namespace_leave_the_turn_to_the_other() -> None:
    """A batch that is full by its bytes is followed by one that begins with the other's."""
    waiting = _waiting(*_of(LOUD, 4, size=100), *_of(QUIET, 1))
    assert _counts(waiting.take(100, 150)) == {LOUD: 2}
    assert _counts(waiting.take(100, 150)) == {QUIET: 1, LOUD: 2}


@pytest.mark.parametrize(("count", "size"), [(75, 0), (4, 20)])
def test_a_namespace_can_not_shut_the_door_for_others(count: int, size: int) -> None:
    """A quarter of the commands, and of the bytes, is kept from each."""
    waiting = _waiting(*_of(LOUD, count, size), most=100)
    assert not waiting.has_room(LOUD)
    assert waiting.has_room(QUIET)
    for entry in _of(QUIET, 25, size):
        waiting.add(entry)
    assert not waiting.has_room(THIRD)
    waiting.take(1_000, 10_000)
    waiting.take(1_000, 10_000)
    assert len(waiting) == 0
    assert waiting.has_room(LOUD)
