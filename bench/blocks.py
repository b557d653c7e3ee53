"""Blocks: measurements three times over, in turn, with the baseline between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bench.figures import Figure, median, spread, wanders
from bench.ground import Ground
from bench.stand import Measured

T = TypeVar("T")
_MOST_REPEATS = 2


@dataclass(frozen=True)
class Sizes:
    """How long and how much: 1 for what counts, less to try a case. Only the former is kept as a result."""

    scale: float = 1.0
    times: int = 3
    baseline_seconds: float = 5.0

    def seconds(self, whole: float) -> float:
        """A time at this scale."""
        return max(1.0, whole * self.scale)

    def count(self, whole: int) -> int:
        """A number at this scale."""
        return max(10, round(whole * self.scale))


@dataclass(frozen=True)
class Block(Generic[T]):
    """What was measured, by name, and the baselines between."""

    measured: dict[str, list[T]]
    baselines: list[float]
    repeats: int

    @property
    def baseline(self) -> float:
        """B of the block."""
        return median(self.baselines)

    @property
    def facts(self) -> dict[str, Any]:
        """What stands beside each figure of the block."""
        return {
            "pgbench": self.baseline,
            "pgbench_spread": spread(self.baselines),
            "repeats": self.repeats,
            "wandered": wanders(self.baselines),
        }


@dataclass
class Bench:
    """What a case is given."""

    ground: Ground
    sizes: Sizes
    progress: Callable[[str], None]

    async def block(self, measures: Mapping[str, Callable[[], Awaitable[T]]]) -> Block[T]:
        """Measures in turn. A block whose baseline wanders is repeated, at most twice; the steadiest is kept.

        A trial at a smaller scale is not repeated: nothing is concluded from it.
        """
        blocks = []
        for repeat in range(1 + _MOST_REPEATS):
            blocks.append(await self._once(measures, repeat))
            if not wanders(blocks[-1].baselines) or self.sizes.scale < 1:
                break
            self.progress(f"the baseline wanders by {spread(blocks[-1].baselines):.0%}")
        steadiest = min(blocks, key=lambda block: spread(block.baselines))
        return Block(steadiest.measured, steadiest.baselines, len(blocks) - 1)

    async def _once(self, measures: Mapping[str, Callable[[], Awaitable[T]]], repeat: int) -> Block[T]:
        await self.ground.execute("CHECKPOINT")
        measured: dict[str, list[T]] = {name: [] for name in measures}
        baselines = [await self._baseline()]
        for time in range(self.sizes.times):
            for name, measure in measures.items():
                again = f", once more ({repeat})" if repeat else ""
                self.progress(f"{name} {time + 1}/{self.sizes.times}{again}")
                measured[name].append(await measure())
            baselines.append(await self._baseline())
        return Block(measured, baselines, repeat)

    async def _baseline(self) -> float:
        self.progress("pgbench")
        return await self.ground.baseline(self.sizes.baseline_seconds * min(1.0, self.sizes.scale))


def cpu_facts(measured: list[Measured]) -> dict[str, Any]:
    """Processor time of each sort of process, microseconds for each completed; medians."""
    return {name: median([each.cpu[name] for each in measured]) for name in measured[0].cpu}


def rates(measured: list[Measured]) -> list[float]:
    """The rates, in the order of time."""
    return [each.rate for each in measured]


def throughput(case: str, block: Block[Measured], name: str, unit: str, *, times: int = 1) -> Figure:
    """A capacity beside the block's baseline; `times` for what each of them is made of, such as steps."""
    measured = [rate * times for rate in rates(block.measured[name])]
    cpu = cpu_facts(block.measured[name])
    return Figure(
        case,
        median(measured),
        unit,
        ratio=median(measured) / block.baseline,
        baseline=block.baseline,
        spread=spread(measured),
        details={**block.facts, "cpu_us": cpu, "cpu_us_all": sum(cpu.values()), "all": measured},
    )


def kept(case: str, block: Block[Measured], without: str, beside: str) -> Figure:
    """How much of the throughput is kept: the median of one sort of measurement against that of another."""
    bases, measured = rates(block.measured[without]), rates(block.measured[beside])
    cpu = {name: cpu_facts(block.measured[name]) for name in (without, beside)}
    return Figure(
        case,
        median(measured),
        "a second",
        ratio=median(measured) / median(bases),
        baseline=median(bases),
        spread=spread(measured),
        details={**block.facts, "cpu_us": cpu, "all": measured, "all_without": bases},
    )


def delay(case: str, block: Block[Measured], name: str, which: str) -> Figure:
    """A percentile of delays: the median of the repeated ones. The baseline is told, and nothing is divided by it."""
    measured = [float(each.told[which]) for each in block.measured[name]]
    samples = [each.told[which.partition("_")[0] + "_samples"] for each in block.measured[name]]
    details = {**block.facts, "cpu_us": cpu_facts(block.measured[name]), "samples": samples, "all": measured}
    return Figure(case, median(measured), "ms", baseline=block.baseline, spread=spread(measured), details=details)
