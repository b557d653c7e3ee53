"""Which repairs fit a difference: the fewest renames and skips, and none where calls came in another order."""

from __future__ import annotations

import pytest

from stepwell_server.engine.fitting import fitting
from stepwell_server.model.order import Difference, MadeCall, RecordedCall
from stepwell_server.model.steps import Kind

CASES = [
    # agreeing, recorded, made, what fits
    (1, "abc", "B", ["b=B"]),
    (1, "abc", "Bc", ["b=B"]),
    (1, "abc", "BC", ["b=B", "c=C"]),
    (1, "abc", "c", ["-b"]),
    (1, "abcd", "cD", ["-b", "d=D"]),
    (1, "abc", "", ["-b", "-c"]),
    (0, "abc", "xyzv", ["a=x", "b=y", "c=z"]),
    (1, "abc", "cb", []),
    (1, "abb", "b", []),
    (1, "abc", "xb", []),
    (1, "aTc", "Bc", []),
    (1, "aTc", "Uc", ["T=U"]),
    (1, "abac", "aa", []),
    (1, "ab", "U", []),
    (1, "abc", "BcU", ["b=B"]),
]


def call(name: str) -> MadeCall:
    """Of `T` and `U` timers."""
    return MadeCall(Kind.TIMER if name in "TU" else Kind.LOCAL, name)


@pytest.mark.parametrize(("agreeing", "recorded", "made", "wanted"), CASES)
def test_what_fits(agreeing: int, recorded: str, made: str, wanted: list[str]) -> None:
    """As the table says."""
    line = tuple(RecordedCall(number, call(name).kind, name) for number, name in enumerate(recorded, 1))
    found = Difference("", agreeing, 0, len(line), line, tuple(call(name) for name in made))
    fits = fitting(found)
    assert [f"{fit.call.name}={fit.new_name}" if fit.new_name else f"-{fit.call.name}" for fit in fits] == wanted


def test_nothing_fits_what_is_not_known() -> None:
    """Where the sides part, or all that is beyond what is shown."""
    line = tuple(RecordedCall(number, Kind.LOCAL, "a") for number in range(1, 7))
    assert fitting(Difference("", None, 0, 6, line, (call("b"),))) == ()
    assert fitting(Difference("", 0, 0, 7, line, ())) == ()
    assert len(fitting(Difference("", 0, 0, 6, line, ()))) == 6


def test_what_would_be_refused_is_not_proposed() -> None:
    """Marks that mean something to the service keep their names, and nothing of updates is repaired."""
    mark = RecordedCall(1, Kind.MARKER, "m")
    race = (MadeCall(Kind.MARKER, "__race"),)
    assert fitting(Difference("", 0, 0, 1, (mark,), race)) == ()
    assert len(fitting(Difference("", 0, 0, 1, (mark,), (MadeCall(Kind.MARKER, "n"),)))) == 1
    update = RecordedCall(1, Kind.MARKER, "__update")
    assert fitting(Difference("0", 0, 0, 1, (update,), ())) == ()
