"""The first row with flow control on: what it costs those who use it. Who uses none is the row without."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.blocks import Bench, kept
from bench.cases.capacity import CALLERS
from bench.figures import Figure
from bench.programs import QUEUE
from bench.stand import Measured, Stand, standing
from stepwell import Client, RateLimit

_SECONDS = 6.0
# More than is ever reached: what is measured is the asking, not the waiting.
_PLENTY = RateLimit(100_000, burst=100_000)
_OFF: dict[str, Any] = {"rate_limit": "none", "aging": "none", "fairness": "none", "key_rate_limit": "none"}
# By row: the operation, and what is set for the queue.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "control_slots": ("in_slots", {}),
    "control_debounce": ("debounced", {}),
    "control_rate": ("one_activity", {"rate_limit": _PLENTY}),
    "control_aging": ("one_activity", {"aging": 60}),
    "control_turns": ("in_turns", {"fairness": {}}),
    "control_key_rate": ("in_turns", {"fairness": {}, "key_rate_limit": _PLENTY}),
}


async def control(bench: Bench) -> list[Figure]:
    """Each sort of flow control in turn, against none."""
    async with standing(bench.ground) as stand, await Client.connect(stand.addresses[0], api_key=stand.key) as client:
        load = partial(_load, stand, client, bench.sizes.seconds(_SECONDS))
        rows = {"off": ("one_activity", {}), **ROWS}
        block = await bench.block({row: partial(load, what, settings) for row, (what, settings) in rows.items()})
        await stand.check()
    return [kept(row, block, "off", row) for row in ROWS]


async def _load(stand: Stand, client: Client, seconds: float, what: str, settings: dict[str, Any]) -> Measured:
    if settings:
        await client.update_task_queue(QUEUE, **settings)
    try:
        return await stand.closed(what, callers=CALLERS, seconds=seconds)
    finally:
        if settings:
            await client.update_task_queue(QUEUE, **_OFF)
