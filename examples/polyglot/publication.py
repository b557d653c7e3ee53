"""The run while it is under way: watched, and disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from checks import Kill, Recorded
from processes import Stage
from rich.progress import Progress

from stepwell import Client, RunHandle
from stepwell.v1 import runs_pb2, types_pb2

QUEUE = "polyglot"
# In seconds, after each file that is packed: so there is a middle to be killed in.
PAUSE = 0.1
# In seconds; far less than the time after which a worker that says nothing is given up.
FROZEN = 1.0


class Publication:
    """A run of `publish`, from a folder of Markdown to another folder."""

    def __init__(self, stage: Stage, client: Client, progress: Progress, source: Path, target: Path) -> None:
        self.stage = stage
        self.client = client
        self.kill: Kill | None = None
        self._progress = progress
        self._order = {"source": str(source), "target": str(target), "pause": PAUSE}
        self._pages = len(list(source.glob("*.md")))
        titles = {"count": "Python: words counted", "page": "TypeScript: pages rendered", "pack": "Go: files packed"}
        self._bars = {name: progress.add_task(title, total=self._pages) for name, title in titles.items()}

    async def start(self) -> RunHandle[Any]:
        """Starts the run, in the trace of the caller."""
        return await self.client.start_run("publish", self._order, task_queue=QUEUE)

    async def finish(self, run: RunHandle[Any]) -> dict[str, Any]:
        """Waits for what the run returns, and kills meanwhile."""
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(self._watch()), group.create_task(self._disturb())]
            result: dict[str, Any] = await run.result()
            for task in beside:
                task.cancel()
        await self._look()
        return result

    async def recorded(self) -> list[Recorded]:
        """What the API says of every run, children too."""
        found = []
        async for run in self.client.list_runs():
            handle: RunHandle[Any] = self.client.run(run.run_id)
            steps = [step async for step in handle.steps()]
            events = [event async for event in handle.history()]
            found.append(Recorded(await handle.describe(), steps, events))
        return sorted(found, key=lambda each: each.run.create_time.ToNanoseconds())

    async def _watch(self) -> None:
        """Keeps the view going, and sees that nobody is gone."""
        while True:
            if gone := self.stage.ended():
                raise RuntimeError(f"{' and '.join(gone)} ended: see {self.stage.log}")
            await self._look()
            await asyncio.sleep(0.2)

    async def _look(self) -> runs_pb2.Step | None:
        """Shows how far everything is, and gives the step that packs while it is at work."""
        steps = [step async for run in self.client.list_runs() async for step in self.client.run(run.run_id).steps()]
        packing = None
        for name, bar in self._bars.items():
            mine = [step for step in steps if step.type == name]
            done = sum(step.state == types_pb2.STEP_STATE_COMPLETED for step in mine)
            if name == "pack" and mine:
                packing = mine[0] if mine[0].state == types_pb2.STEP_STATE_RUNNING else None
                done = self._pages if done else _packed(mine[0])
            self._progress.update(bar, completed=done)
        return packing

    async def _disturb(self) -> None:
        """Kills the worker in Go while it packs, and starts another."""
        while not await self._interrupt():  # noqa: ASYNC110 - a step tells nobody that it goes on
            await asyncio.sleep(0.1)
        self.stage.start_worker("go")
        self._progress.console.print("[green]started[/] another worker in Go")

    async def _interrupt(self) -> bool:
        """Kills while nobody works there, so that what was at work is so still, unless a look takes too long."""
        step = await self._look()
        if step is None or _packed(step) < self._pages // 4:
            return False
        self.stage.freeze("go")
        try:
            async with asyncio.timeout(FROZEN):
                # What the worker had sent before is recorded by the second look.
                await self._look()
                step = await self._look()
            if step is not None:
                self._kill(step)
        except TimeoutError:
            return False
        finally:
            with contextlib.suppress(KeyError):
                self.stage.thaw("go")
        return self.kill is not None

    def _kill(self, step: runs_pb2.Step) -> None:
        self.kill = Kill(self.stage.kill("go"), time.time(), _packed(step))
        told = f"it had packed {self.kill.packed} of {self._pages} files, by its last heartbeat"
        self._progress.console.print(f"[red]kill -9[/] the worker in Go: {told}")


def _packed(step: runs_pb2.Step) -> int:
    """How many files are packed, by the heartbeat that is recorded."""
    return int(step.heartbeat_details.json or "0")
