"""Surveys the standard library with durable runs, and kills a worker and the service meanwhile.

Exit code 0 only if every run ended, the totals equal those of a plain computation, each file was recorded exactly once
and left its effect at least once, and every second effect is explained by a kill of its worker or of the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import measures
from checks import Kills, Recorded, Verdict, judge, plain_totals, read_effects
from processes import Stage
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from traces import tree_of
from worker import LARGE, QUEUE, Report, survey

from stepwell import Client, RunHandle, StepwellError

WORKERS = 3
IN_FLIGHT = 3
HEARD = 16
# Seconds; far less than a worker has to acknowledge a task.
FROZEN = 1.0
STARTED = 60.0
console = Console()


async def connect(stage: Stage) -> Client:
    """Waits for the service. Raises `RuntimeError` when it has ended, `TimeoutError` when it takes too long."""
    async with asyncio.timeout(STARTED):
        while True:
            if stage.server is None or stage.server.poll() is not None:
                raise RuntimeError(f"the service has ended: see {stage.log}")
            with contextlib.suppress(StepwellError, OSError, TimeoutError):
                return await Client.connect(stage.address, connect_timeout=2)
            await asyncio.sleep(0.1)


async def in_flight(handles: list[RunHandle[Report]]) -> dict[tuple[str, int], str]:
    """Activities under way, by run and step, and whose they are, as the service says."""
    found: dict[tuple[str, int], str] = {}

    async def look(handle: RunHandle[Report]) -> None:
        async for step in handle.steps(states=["running"]):
            if step.owner_id:
                found[handle.run_id, step.ordinal] = step.owner_id

    await asyncio.gather(*(look(handle) for handle in handles))
    return found


class Survey:
    """The demo while it runs."""

    def __init__(self, stage: Stage, client: Client, progress: Progress) -> None:
        self.stage = stage
        self.client = client
        self.progress = progress
        self.handles: dict[str, RunHandle[Report]] = {}
        self.reports: dict[str, Report] = {}
        self.kills = Kills()
        self.resumed = 0
        self.sizes = {name: len(measures.sources(name)) for name in measures.names()}
        self.files = sum(self.sizes.values())
        self._runs = progress.add_task("runs ended", total=len(measures.names()))
        self._effects = progress.add_task("files measured", total=self.files)

    async def start(self) -> None:
        """Starts all runs at once, and approves the large ones."""

        async def start(name: str) -> None:
            started = await self.client.start_run(survey, name, task_queue=QUEUE, workflow_id=f"survey/{name}")
            self.handles[name] = started
            if self.sizes[name] >= LARGE:
                await started.signal("approved", {"by": "the demo"})

        await asyncio.gather(*(start(name) for name in measures.names()))

    async def finish(self, name: str) -> None:
        """Waits for one run's report, over all that is killed meanwhile."""
        self.reports[name] = await self.handles[name].result()
        self.progress.advance(self._runs)

    def measured(self) -> int:
        """How many effects there are."""
        done = self.stage.effects.read_bytes().count(b"\n") if self.stage.effects.exists() else 0
        self.progress.update(self._effects, completed=min(done, self.files))
        return done

    async def in_flight(self) -> dict[tuple[str, int], str]:
        """What is under way in the runs heard of last; not what the killed worker left behind."""
        heard = {line["run"] for line in read_effects(self.stage.effects)[-HEARD:]}
        found = await in_flight([each for each in self.handles.values() if each.run_id in heard])
        return {key: owner for key, owner in found.items() if owner != self.kills.worker}

    async def reach(self, share: float) -> None:
        """Waits until so much is done."""
        while self.measured() < share * self.files:  # noqa: ASYNC110 - a file tells nobody that it grows
            await asyncio.sleep(0.05)
        if self.measured() >= self.files:
            raise RuntimeError("everything was measured before there was something to interrupt")

    async def interrupt(self, kill: Callable[[dict[tuple[str, int], str]], bool]) -> bool:
        """Kills while nobody works, so that what is in flight is so still. A look that takes too long kills nothing."""
        self.stage.freeze_workers()
        try:
            async with asyncio.timeout(FROZEN):
                # What the workers had sent before is recorded by the second look.
                await self.in_flight()
                return kill(await self.in_flight())
        except TimeoutError:
            return False
        finally:
            self.stage.thaw_workers()

    async def disturb(self) -> None:
        """Kills a worker at a third, and the service a little later, each while it is busy."""
        await self.reach(1 / 3)
        while not await self.interrupt(self.kill_worker):
            await self.reach(1 / 3)
        self.stage.start_worker()
        await self.reach(0.45)
        while not await self.interrupt(self.kill_server):
            await self.reach(0.45)
        self.stage.start_server()
        await (await connect(self.stage)).close()
        self.progress.console.print("[green]restarted[/] the service; its Postgres was adopted")

    def kill_worker(self, flying: dict[tuple[str, int], str]) -> bool:
        """Kills the busiest worker if it has several activities, and is in the middle of one."""
        busiest, count = Counter(flying.values()).most_common(1)[0] if flying else ("", 0)
        performed = {(line["run"], line["step"]) for line in read_effects(self.stage.effects)}
        begun = sum(owner == busiest for key, owner in flying.items() if key in performed)
        if count < IN_FLIGHT or not begun:
            return False
        self.stage.kill_worker(next(each for each in self.stage.workers if f"/{each.pid}/" in busiest))
        self.kills.worker = busiest
        told = f"{count} activities in flight, {begun} of them begun"
        self.progress.console.print(f"[red]kill -9[/] worker {busiest}: {told}; replaced")
        return True

    def kill_server(self, flying: dict[tuple[str, int], str]) -> bool:
        """Kills the service if several activities are in flight."""
        if len(flying) < IN_FLIGHT:
            return False
        self.resumed = len(flying)
        self.kills.service = time.time()
        self.stage.kill_server()
        self.progress.console.print(f"[red]kill -9[/] the service: at least {self.resumed} activities in flight")
        return True

    async def watch(self) -> None:
        """Keeps the view going."""
        while True:
            self.measured()
            await asyncio.sleep(0.2)

    async def recorded(self) -> list[Recorded]:
        """What the API says of every run, children too."""
        found = []
        async for run in self.client.list_runs():
            handle: RunHandle[Report] = self.client.run(run.run_id)
            steps = [step async for step in handle.steps()]
            events = [event async for event in handle.history()]
            found.append(Recorded(await handle.describe(), steps, events))
        return found


def show(reports: dict[str, Report], verdict: Verdict) -> None:
    """The tables."""
    table = Table(title="the ten largest packages")
    for column in ("name", "files", "lines", "functions", "classes", "documented", "longest function"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for report in sorted(reports.values(), key=lambda each: -each.total["lines"])[:10]:
        total = report.total
        share = total["documented"] / max(1, total["functions"] + total["classes"])
        row = [total["files"], total["lines"], total["functions"], total["classes"], f"{share:.0%}", total["longest"]]
        table.add_row(report.name, *map(str, row))
    console.print(table)
    figures = Table(title="what was recorded", show_header=False)
    for name, value in verdict.figures.items():
        figures.add_row(name, f"{value:,}")
    console.print(figures)


async def perform(stage: Stage) -> int:
    """The whole demo; answers the exit code."""
    began = time.monotonic()
    stage.start_server()
    client = await connect(stage)
    for _ in range(WORKERS):
        stage.start_worker()
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        survey_ = Survey(stage, client, progress)
        await survey_.start()
        watching = asyncio.create_task(survey_.watch())
        async with asyncio.TaskGroup() as group:
            group.create_task(survey_.disturb())
            for name in survey_.handles:
                group.create_task(survey_.finish(name))
        watching.cancel()
    plain = await asyncio.to_thread(plain_totals, measures.names())
    recorded = await survey_.recorded()
    verdict = judge(survey_.reports, recorded, stage.effects, plain, survey_.kills)
    verdict.figures["in flight when the service was killed"] = survey_.resumed
    verdict.expect(holds=survey_.resumed > 0, otherwise="killing the service interrupted nothing")
    show(survey_.reports, verdict)
    await client.close()
    await stage.close()
    tree = tree_of(stage.spans, survey_.handles["json"].run_id)
    verdict.expect(holds=tree is not None, otherwise="no span of run `json` was exported")
    if tree is not None:
        console.print(tree)
    console.print(f"{time.monotonic() - began:.0f} s")
    for fault in verdict.faults[:20]:
        console.print(f"[bold red]fault:[/] {fault}")
    if not verdict.faults:
        console.print("[bold green]everything adds up[/]: totals equal, each file recorded once, nothing lost")
    return 1 if verdict.faults else 0


def main() -> int:
    """Runs in a folder of its own, which goes if all went well."""
    folder = Path(tempfile.mkdtemp(prefix="stepwell-demo-"))
    # An unprivileged Postgres must be able to pass, when this is run as root.
    folder.chmod(0o711)
    stage = Stage(folder)
    code = 1
    try:
        code = asyncio.run(perform(stage))
    finally:
        for process in [*stage.workers, stage.server]:
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait()
        if code:
            console.print(f"what was left behind: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
