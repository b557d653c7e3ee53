"""Who has the runs: looked at now and then, since history does not tell by whom a run was advanced."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING

from stepwell.errors import StepwellError

if TYPE_CHECKING:
    from stepwell.client import Client

_LOOK_SECONDS = 0.5
_RUNS = 200


class Holders:
    """Which runs were seen with workers of which SDK: fewer than they had, for short ones go unseen."""

    def __init__(self, client: Client, queue: str) -> None:
        """Has seen nothing."""
        self._client = client
        self._queue = queue
        self._sdks: dict[str, str] = {}
        self._seen: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def counts(self) -> dict[str, int]:
        """How many, by language."""
        return {language: len(runs) for language, runs in sorted(self._seen.items())}

    async def look_on(self) -> None:
        """Looks until it is cancelled."""
        while True:
            with contextlib.suppress(StepwellError):
                await self._look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        holding = [
            (run.run_id, run.owner_id)
            async for run in self._client.list_runs(
                task_queue=self._queue, phases=["running", "suspended"], limit=_RUNS
            )
            if run.owner_id
        ]
        if not self._sdks.keys() >= {owner for _, owner in holding}:
            self._sdks |= {worker.worker_id: worker.sdk async for worker in self._client.list_workers()}
        for run_id, owner in holding:
            if owner in self._sdks:
                self._seen[language_of(self._sdks[owner])].add(run_id)


def language_of(sdk: str) -> str:
    """Gives the language of an SDK: `stepwell-go/0.1.0` is one for `go`."""
    return sdk.partition("/")[0].removeprefix("stepwell-") or "unknown"
