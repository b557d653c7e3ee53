"""Runs cases against a command: several side by side, each with a queue and a tap of its own.

Cases that leave their worker as it was share a process, one after the other; those that end it, or need other settings,
get one of their own.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stepwell.client import Client
from stepwell.conformance import activity_cases, delivery_cases, run_cases, run_delivery_cases, session_cases
from stepwell.conformance.cases import CASES, Broken, Case, Kind
from stepwell.conformance.messages import Said
from stepwell.conformance.service import Service
from stepwell.conformance.stage import PATIENCE_SECONDS, Setting, Stage

# Importing them declares the cases.
MODULES = (activity_cases, delivery_cases, session_cases, run_cases, run_delivery_cases)

LANES = 4
# Programs of some languages take all of a core until they run: more at a time would only be slower.
_STARTING = 2
_LAST_MESSAGES = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of a case; `broken` is `None` if it passed. `said` are the last messages, `log` what it logged last."""

    case: Case
    seconds: float
    broken: Broken | None
    said: Sequence[Said] = ()
    log: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether the worker did as it should."""
        return self.broken is None


def chosen(kind: Kind | None = None, names: Iterable[str] = (), *, is_quick: bool = False) -> list[Case]:
    """Gives the cases of a kind, or those of these names, in their order. Raises `KeyError` for a name that is none."""
    wanted = [CASES[name] for name in names] or list(CASES.values())
    return [each for each in wanted if kind in {None, each.kind} and not (is_quick and each.is_long)]


async def run(
    command: Sequence[str], cases: Sequence[Case], told: Callable[[Result], None], lanes: int = LANES
) -> list[Result]:
    """Starts a service and runs the cases; `told` hears of each as it ends. Gives them in the order of `cases`."""
    async with Service() as service:
        return await run_on(service, command, cases, told, lanes)


async def run_on(
    service: Service,
    command: Sequence[str],
    cases: Sequence[Case],
    told: Callable[[Result], None],
    lanes: int = LANES,
    *,
    patience: float = PATIENCE_SECONDS,
) -> list[Result]:
    """Runs the cases on a service that stands, in a namespace of its own. What should come soon has `patience` s."""
    namespace = f"conformance-{secrets.token_hex(4)}"
    folder = service.folder / namespace
    folder.mkdir()
    # What takes longest begins first.
    waiting = collections.deque(sorted(cases, key=lambda each: (-each.is_long, -each.is_alone)))
    results: dict[str, Result] = {}
    client = await Client.connect(service.addresses[0], namespace=namespace)
    async with client:
        await client.create_namespace(namespace)
        starting = asyncio.Semaphore(_STARTING)
        setting = Setting(command, client, service.addresses, folder, patience, starting)
        all_lanes = [_Lane(number, setting) for number in range(max(1, min(lanes, len(cases))))]
        work = [asyncio.create_task(lane.work(waiting, results, told)) for lane in all_lanes]
        try:
            await asyncio.gather(*work)
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    return [results[each.name] for each in cases]


class _Lane:
    """Runs one case after the other."""

    def __init__(self, number: int, setting: Setting) -> None:
        self._number = number
        self._setting = setting
        self._shared: Stage | None = None
        self._stages = 0

    async def work(
        self, waiting: collections.deque[Case], results: dict[str, Result], told: Callable[[Result], None]
    ) -> None:
        """Runs cases until none waits."""
        try:
            while waiting:
                case = waiting.popleft()
                result = results[case.name] = await (self._alone(case) if case.is_alone else self._beside(case))
                told(result)
        finally:
            await self._part()

    async def _alone(self, case: Case) -> Result:
        async with self._stage(case) as stage:
            return await _carried_out(case, stage)

    async def _beside(self, case: Case) -> Result:
        if self._shared is None:
            self._shared = await self._stage(None).__aenter__()
        result = await _carried_out(case, self._shared)
        if not result.has_passed or not await self._shared.settle():
            await self._part()
        return result

    def _stage(self, case: Case | None) -> Stage:
        self._stages += 1
        name = f"lane-{self._number}-{self._stages}" if case is None else case.name
        settings = {} if case is None else case.settings
        return Stage(self._setting, name, settings)

    async def _part(self) -> None:
        stage, self._shared = self._shared, None
        if stage is not None:
            await stage.__aexit__(None, None, None)


async def _carried_out(case: Case, stage: Stage) -> Result:
    began = time.monotonic()
    broken: Broken | None = None
    try:
        if not stage.is_started:
            await stage.start()
            began = time.monotonic()
        stage.tap.begin()
        async with asyncio.timeout(case.seconds):
            await case.run(stage)
            await stage.over()
    except Broken as error:
        broken = error
    except TimeoutError:
        broken = Broken(f"the case ends within {case.seconds:.0f} s", "it has not", "")
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases go on
        broken = Broken("the case can be carried out", f"{type(error).__name__}: {error}", "")
    seconds = time.monotonic() - began
    if broken is None:
        return Result(case, seconds, None)
    log = stage.program.last_words() if stage.is_started else ""
    return Result(case, seconds, broken, list(stage.tap.said)[-_LAST_MESSAGES:], log)


def as_dict(result: Result) -> dict[str, Any]:
    """Spells a result for programs."""
    case = result.case
    told: dict[str, Any] = {"name": case.name, "kind": case.kind, "about": case.about, "protocol": case.link}
    told |= {"passed": result.has_passed, "seconds": round(result.seconds, 3)}
    if result.broken is not None:
        told |= {"expected": result.broken.expected, "seen": result.broken.seen, "protocol": where(result)}
        told |= {"messages": [str(each) for each in result.said], "log": result.log}
    return told


def where(result: Result) -> str:
    """Gives where the protocol says what was expected."""
    section = result.broken.section if result.broken is not None else ""
    return dataclasses.replace(result.case, section=section or result.case.section).link
