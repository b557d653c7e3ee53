"""Capacity: closed loops beside the baseline."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bench.blocks import Bench, Block, throughput
from bench.figures import Figure, median, spread
from bench.stand import Measured, standing

CALLERS = 2_000
SECONDS = 8.0
KILOBYTE = 1_000


async def one_activity(bench: Bench) -> list[Figure]:
    """Rows 1 and "commits, statements, WAL": runs with one activity."""
    block = await _block(bench, "one_activity", 100)
    return [throughput("one_activity", block, "one_activity", "runs a second"), *_writing(block)]


async def one_activity_1kb(bench: Bench) -> list[Figure]:
    """Row 1 with payloads of 1 KB."""
    block = await _block(bench, "one_activity", KILOBYTE)
    return [throughput("one_activity_1kb", block, "one_activity", "runs a second")]


async def three_steps(bench: Bench) -> list[Figure]:
    """Row 2: code runs of three steps."""
    block = await _block(bench, "three_steps", 100)
    return [throughput("three_steps", block, "three_steps", "steps a second", times=3)]


async def three_steps_1kb(bench: Bench) -> list[Figure]:
    """Row 2 with payloads of 1 KB."""
    block = await _block(bench, "three_steps", KILOBYTE)
    return [throughput("three_steps_1kb", block, "three_steps", "steps a second", times=3)]


async def jobs(bench: Bench) -> list[Figure]:
    """Row 3: activities without a run."""
    block = await _block(bench, "jobs", 100)
    return [throughput("jobs", block, "jobs", "jobs a second")]


async def _block(bench: Bench, what: str, size: int) -> Block[Measured]:
    async with standing(bench.ground) as stand:
        seconds = bench.sizes.seconds(SECONDS)
        measure = partial(stand.closed, what, callers=CALLERS, seconds=seconds, size=size, wal=True)
        block = await bench.block({what: measure})
        await stand.check()
    return block


def _writing(block: Block[Measured]) -> list[Figure]:
    """What a run costs the database: commits and bytes by its log, statements by the service's count."""
    measured = block.measured["one_activity"]
    logs = [(each.wal, each.counted) for each in measured if each.wal is not None]
    bytes_all = [(wal.record_bytes + wal.image_bytes) / counted for wal, counted in logs]
    rows = {
        "commits": ("a run", [wal.commits / counted for wal, counted in logs]),
        "statements": ("a run", [each.statements for each in measured]),
        "wal": ("bytes a run", bytes_all),
        "wal_without_images": ("bytes a run", [wal.record_bytes / counted for wal, counted in logs]),
    }
    made = []
    for name, (unit, values) in rows.items():
        figure = Figure(name, median(values), unit, baseline=block.baseline, spread=spread(values))
        made.append(replace(figure, details={**block.facts, "all": values}))
    return made
