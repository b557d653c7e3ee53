"""Identifiers are ordered, derived and packed as promised."""

from __future__ import annotations

import time
from uuid import UUID, uuid4

import pytest

from stepwell_server import ids


def test_a_uuid7_is_one() -> None:
    """Version, variant, text form and time are those of RFC 9562."""
    before = time.time_ns() // 1_000_000
    made = ids.uuid7()
    after = time.time_ns() // 1_000_000
    assert made.version == 7
    assert made.variant == uuid4().variant
    assert UUID(str(made)) == made
    assert before <= made.int >> 80 <= after + 1


def test_uuid7s_rise() -> None:
    """Each is greater than the one before, however fast they are made."""
    made = [ids.uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_uuid7s_rise_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back costs no order."""
    first = ids.uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert first < ids.uuid7() < ids.uuid7()


def test_a_request_names_its_run() -> None:
    """The same request gives the same run id, and no other request does."""
    one = ids.run_id_for_request("main", "r")
    assert one == ids.run_id_for_request("main", "r")
    assert one != ids.run_id_for_request("mai", "nr")


@pytest.mark.parametrize("run_key", [0, 1, 123_456_789, ids.RUN_KEYS - 1])
@pytest.mark.parametrize("ordinal", [0, 1, ids.ORDINALS - 1])
def test_a_number_finds_its_run(run_key: int, ordinal: int) -> None:
    """What is packed comes back, and fits a signed 64-bit column."""
    number = ids.pack(run_key, ordinal)
    assert 0 <= number < 1 << 63
    assert ids.unpack(number) == (run_key, ordinal)


@pytest.mark.parametrize(("run_key", "ordinal"), [(0, -1), (0, ids.ORDINALS), (-1, 0), (ids.RUN_KEYS, 0)])
def test_what_does_not_fit_is_refused(run_key: int, ordinal: int) -> None:
    """Nothing is cut off in silence."""
    with pytest.raises(ValueError, match="does not fit"):
        ids.pack(run_key, ordinal)
