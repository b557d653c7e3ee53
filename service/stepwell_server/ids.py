"""Identifiers: how they are made, packed and told apart."""

from __future__ import annotations

import os
import time
from array import array
from typing import NamedTuple, NewType
from uuid import UUID, SafeUUID, uuid5

Namespace = NewType("Namespace", str)
RunId = NewType("RunId", UUID)
JobId = NewType("JobId", UUID)
RunKey = NewType("RunKey", int)
"""A run's internal key; rises with time."""
Ordinal = NewType("Ordinal", int)
"""The place of a step, event, timer or signal among its kind in its run."""
Number = NewType("Number", int)
"""A run's key and an ordinal in one int64, so that a row addressed by it alone finds its run."""

# The namespace that always exists.
MAIN = Namespace("main")
ORDINAL_BITS = 17
ORDINALS = 1 << ORDINAL_BITS
RUN_KEYS = 1 << (63 - ORDINAL_BITS)

_RUN_IDS = UUID("5b0f3c52-64b5-5d0c-9e8d-0a6ed7a1c7f4")
_JOB_IDS = UUID("8f7f8f0a-3a52-5c9e-9d3e-6c1b1a4f7e21")
_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_BITS = 62
_ENDING_BITS = 24
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
# Asking the system for each number would cost more than all else; popping from a list is safe among threads.
_drawn: list[int] = []
os.register_at_fork(after_in_child=_drawn.clear)
_set = object.__setattr__
_latest = 0


def uuid7() -> UUID:
    """Makes a UUIDv7 that is greater than every earlier one of this process.

    The 12 bits after the milliseconds hold the fraction of one, and count on when the clock stands still or goes back.
    """
    global _latest  # noqa: PLW0603 - the order is a property of the process
    stamp = time.time_ns() * 4096 // 1_000_000
    _latest = stamp = stamp if stamp > _latest else _latest + 1
    value = (stamp >> 12) << 80 | _VERSION_7 | (stamp & 0xFFF) << 64 | _VARIANT | _draw()
    # The constructor checks and branches for longer than all of the above takes.
    made = UUID.__new__(UUID)
    _set(made, "int", value)
    _set(made, "is_safe", SafeUUID.unknown)
    return made


def uuid7_ending_as(made: UUID) -> UUID:
    """Makes a UUIDv7 with the last 6 digits of another: who watches ids with that ending hears of both."""
    return UUID(int=uuid7().int >> _ENDING_BITS << _ENDING_BITS | made.int & (1 << _ENDING_BITS) - 1)


def _draw() -> int:
    """Takes random bits that nobody can guess, bought from the system by the dozen."""
    try:
        return _drawn.pop() & _RANDOM_MASK
    except IndexError:
        _drawn.extend(array("Q", os.urandom(2048)))
        return _drawn.pop() & _RANDOM_MASK


class IdEnding(NamedTuple):
    """How ids end: so many hexadecimal digits, as a number."""

    digits: int
    value: int

    @classmethod
    def of(cls, made: UUID, digits: int) -> IdEnding:
        """How one ends, by its last digits."""
        return cls(digits, made.int & (1 << 4 * digits) - 1)


ANY_ID = IdEnding(0, 0)


def run_id_for_request(namespace: str, request_id: str, method: str = "") -> RunId:
    """Derives the id of the run that a request starts, so that its repeat finds the run even when that has ended.

    `method` is named where a run is made of another one: such a request and a start may have the same id.
    """
    # None of the texts may hold NUL, so no two pairs read alike, nor any with a method like one without.
    return RunId(uuid5(_RUN_IDS, "\0".join((namespace, request_id, *filter(None, (method,))))))


def job_id_for_request(namespace: str, request_id: str) -> JobId:
    """The same for the job that a request starts: a run and a job may come of the same request id."""
    return JobId(uuid5(_JOB_IDS, f"{namespace}\0{request_id}"))


def pack(run_key: int, ordinal: int) -> Number:
    """Joins a run's key and an ordinal."""
    if not 0 <= ordinal < ORDINALS:
        raise ValueError(f"ordinal {ordinal} does not fit {ORDINAL_BITS} bits")
    if not 0 <= run_key < RUN_KEYS:
        raise ValueError(f"run key {run_key} does not fit {63 - ORDINAL_BITS} bits")
    return Number(run_key << ORDINAL_BITS | ordinal)


def unpack(number: int) -> tuple[RunKey, Ordinal]:
    """Takes a number apart."""
    return RunKey(number >> ORDINAL_BITS), Ordinal(number & (ORDINALS - 1))
