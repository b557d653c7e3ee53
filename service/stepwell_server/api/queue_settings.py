"""What is set for a task queue, as the API says it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from stepwell.v1 import task_queues_pb2
from stepwell_server.api.fields import Fields, fairness_key, integer, seconds
from stepwell_server.api.payloads import duration_to_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.engine import rate_limits
from stepwell_server.errors import InvalidField
from stepwell_server.model.queue_settings import QueueSettings, RateLimit, pack_weights

if TYPE_CHECKING:
    from datetime import datetime

_CHANGEABLE = {"rate_limit", "aging_interval", "fairness", "key_rate_limit"}
_SLOWEST, _FASTEST, _MOST_TOKENS = 0.0001, 100_000.0, 100_000
_SHORTEST_AGING = 0.001
_MOST_WEIGHTS = 256


def changes_of(request: task_queues_pb2.UpdateTaskQueueRequest, fields: Fields) -> dict[str, object]:
    """The columns that change, with their new values."""
    paths = set(request.update_mask.paths)
    if not paths or not paths <= _CHANGEABLE:
        problem = f"names {sorted(paths - _CHANGEABLE)}" if paths else "is required"
        raise InvalidField(field="update_mask", problem=f"{problem}: name some of {', '.join(sorted(_CHANGEABLE))}")
    changes: dict[str, object] = {}
    if "rate_limit" in paths:
        changes |= _limit_changes(request, "rate_limit", "rate")
    if "key_rate_limit" in paths:
        changes |= _limit_changes(request, "key_rate_limit", "key_rate")
    if "aging_interval" in paths:
        changes["aging_seconds"] = seconds(request, "aging_interval", at_least=_SHORTEST_AGING)
    if "fairness" in paths:
        told = request.fairness if request.HasField("fairness") else None
        changes["fairness_weights"] = None if told is None else pack_weights(weights_from_proto(told, fields))
    return changes


def weights_from_proto(message: task_queues_pb2.Fairness, fields: Fields) -> dict[str, int]:
    """Reads what keys weigh."""
    if len(message.weights) > _MOST_WEIGHTS:
        problem = f"has {len(message.weights)} entries: give it at most {_MOST_WEIGHTS}"
        raise InvalidField(field="fairness.weights", problem=problem)
    at = "fairness.weights."
    return {
        fairness_key(key, fields, at) or "": integer(weight, f"weights[{key!r}]", "fairness.", at_least=1, at_most=1000)
        for key, weight in message.weights.items()
    }


def _limit_changes(
    request: task_queues_pb2.UpdateTaskQueueRequest, field: Literal["rate_limit", "key_rate_limit"], columns: str
) -> dict[str, object]:
    if not request.HasField(field):
        return {f"{columns}_per_second": None, f"{columns}_burst": None}
    limit = rate_limit_from_proto(getattr(request, field), field)
    return {f"{columns}_per_second": limit.per_second, f"{columns}_burst": limit.burst}


def rate_limit_from_proto(message: task_queues_pb2.RateLimit, field: str) -> RateLimit:
    """Reads a limit."""
    # A comparison with what is no number is never true.
    if not _SLOWEST <= message.per_second <= _FASTEST:
        problem = f"is {message.per_second:g}: it must be {_SLOWEST:g} to {_FASTEST:.0f}"
        raise InvalidField(field=f"{field}.per_second", problem=problem)
    burst = message.burst or math.ceil(message.per_second)
    return RateLimit(message.per_second, integer(burst, f"{field}.burst", at_least=1, at_most=_MOST_TOKENS))


def settings_to_proto(row: QueueSettings | None, now: datetime | None = None) -> task_queues_pb2.TaskQueueSettings:
    """Renders what is set; with a time, also when the next task is given if that is later."""
    if row is None:
        return task_queues_pb2.TaskQueueSettings()
    limit = row.rate_limit
    later = rate_limits.later_time(limit, row.spent_until, now) if limit is not None and now is not None else None
    return task_queues_pb2.TaskQueueSettings(
        rate_limit=_limit_to_proto(limit),
        aging_interval=duration_to_proto(row.aging_seconds),
        version=row.version,
        update_time=time_to_proto(row.update_time),
        next_task_time=time_to_proto(later),
        fairness=None if row.weights is None else task_queues_pb2.Fairness(weights=row.weights),
        key_rate_limit=_limit_to_proto(row.key_rate_limit),
    )


def _limit_to_proto(limit: RateLimit | None) -> task_queues_pb2.RateLimit | None:
    return None if limit is None else task_queues_pb2.RateLimit(per_second=limit.per_second, burst=limit.burst)
