"""What the workers connected to this replica can take on, and what of it is taken, as numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stepwell_server.model.tasks import TaskKind
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell_server.dispatch.sessions import WorkerSession

_RESIDENT = "resident"
_ALWAYS = frozenset({"run", "activity", _RESIDENT})
_KINDS = {kind.value: kind.name.lower() for kind in TaskKind}


def measure_capacity(sessions: Iterable[WorkerSession]) -> None:
    """Sets the gauges. A worker without a stream takes nothing."""
    stated: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for session in sessions:
        if not session.attached:
            continue
        for (kind, _), room in session.rooms.items():
            name = _KINDS[kind]
            stated[name] += room.most
            used[name] += room.taken
            stated[_RESIDENT] += room.most_resident
            used[_RESIDENT] += room.resident
    for name in _ALWAYS | stated.keys():
        metrics.capacity_stated.labels(name).set(stated[name])
        metrics.capacity_used.labels(name).set(used[name])
