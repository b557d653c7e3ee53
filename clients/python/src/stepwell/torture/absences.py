"""Who was away from the service when: worked out from the faults, and from which connections led where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stepwell.torture.faults import Fault, Kind
from stepwell.torture.plan import Times
from stepwell.torture.proxy import Link

SLACK = 1.0
"""Seconds for what was on its way already, and for a machine that is busy."""

_ENDS_CONNECTIONS = frozenset({Kind.WORKER_CUT, Kind.WORKER_SEVERED})
_ENDS_PROCESSES = frozenset({Kind.WORKER_KILLED, Kind.WORKER_CRASHED})
_HOLDS_BACK = frozenset({Kind.WORKER_FROZEN, Kind.WORKER_STALLED, Kind.REPLICA_FROZEN})


@dataclasses.dataclass(frozen=True, slots=True)
class Absence:
    """A worker could not be heard, or could not hear, because of a fault."""

    worker: str
    begin: float
    end: float
    fault: Fault

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin

    @property
    def last_beginning(self) -> float:
        """When the worker can last have begun what was on its way to it: a connection that is gone brings nothing."""
        return (self.end if self.fault.kind in _HOLDS_BACK else self.begin) + SLACK


def absences_of(faults: Sequence[Fault], links: Sequence[Link], times: Times) -> list[Absence]:
    """All absences of all workers, in the order of the faults."""
    found = [absence for fault in faults for absence in _of(fault, links, times)]
    left = {fault.target: fault.end for fault in faults if fault.kind is Kind.WORKER_LEFT}
    return [_for_good(absence, left.get(absence.worker)) for absence in found]


def _for_good(absence: Absence, left: float | None) -> Absence:
    """Who left while nobody heard it has taken what it was at with it."""
    if left is None or not absence.begin <= left <= absence.end + SLACK:
        return absence
    return dataclasses.replace(absence, end=float("inf"))


def _of(fault: Fault, links: Sequence[Link], times: Times) -> list[Absence]:
    if fault.kind in _ENDS_PROCESSES:
        return [Absence(fault.target, fault.begin, float("inf"), fault)]
    if fault.kind in _ENDS_CONNECTIONS:
        end = _connected_again(fault.target, max(fault.begin, fault.end), links)
        return [Absence(fault.target, fault.begin, end, fault)]
    if fault.kind in {Kind.WORKER_FROZEN, Kind.WORKER_STALLED}:
        return [Absence(fault.target, fault.begin, fault.end, fault)]
    if fault.kind in {Kind.REPLICA_KILLED, Kind.REPLICA_FROZEN}:
        return _of_a_replica(fault, links, times)
    # What is told to leave takes care that nothing is done twice, and nothing expires while the database is away, nor
    # for a session's time after.
    return []


def _of_a_replica(fault: Fault, links: Sequence[Link], times: Times) -> list[Absence]:
    """Those whose connections led to it, then or meanwhile: until it thaws, or until they are connected elsewhere."""
    found = []
    for link in links:
        if str(link.replica) != fault.target or not _is_hurt(link, fault, times):
            continue
        begin = max(fault.begin, link.begin)
        if fault.kind is Kind.REPLICA_FROZEN and link.end >= fault.end:
            end = fault.end
        else:
            end = _connected_again(link.whose, link.end, links)
        found.append(Absence(link.whose, begin, end, fault))
    return found


def _is_hurt(link: Link, fault: Fault, times: Times) -> bool:
    """Whether it was one over which a worker is heard: over its calls' it says nothing for long.

    What was opened after a kill leads to the replica that was started in its place.
    """
    last = fault.begin if fault.kind is Kind.REPLICA_KILLED else fault.end
    return link.begin <= last and link.end >= fault.begin and link.heard >= fault.begin - 2 * times.beat


def _connected_again(worker: str, since: float, links: Sequence[Link]) -> float:
    return min((link.begin for link in links if link.whose == worker and link.begin >= since), default=float("inf"))


def merged(absences: Sequence[Absence]) -> list[tuple[float, float, tuple[Absence, ...]]]:
    """One worker's absences as stretches of time: those that follow each other closely are one."""
    stretches: list[tuple[float, float, tuple[Absence, ...]]] = []
    for absence in sorted(absences, key=lambda each: each.begin):
        if stretches and absence.begin <= stretches[-1][1] + SLACK:
            begin, end, parts = stretches.pop()
            stretches.append((begin, max(end, absence.end), (*parts, absence)))
        else:
            stretches.append((absence.begin, absence.end, (absence,)))
    return stretches
