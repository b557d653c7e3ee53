"""How a run stands with its concurrency limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.v1.concurrency_pb2 import SLOT_STATE_AWAITED, SLOT_STATE_HELD

if TYPE_CHECKING:
    from stepwell.v1.runs_pb2 import Run

_STANDS = {SLOT_STATE_AWAITED: ", waits for a slot", SLOT_STATE_HELD: ", has a slot"}


def limit_of(run: Run) -> str:
    """Says which limit a run is under, and whether it has a slot."""
    if not run.HasField("concurrency"):
        return ""
    limit = run.concurrency
    return f"{limit.name}, key {limit.key}: {limit.maximum_runs} at once{_STANDS.get(run.slot_state, '')}"
