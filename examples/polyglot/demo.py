"""Publishes the handbook by one workflow whose steps are written in Python, Go and TypeScript, under one trace.

Kills the worker in Go while it is at work, and starts another. Exit code 0 only if all that was published is right,
each step was recorded once, and the spans of all three languages and of the service hang together in one trace; 2 if
a toolchain is not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks import LANGUAGES, Kill, Recorded, Verdict, judge
from collector import Collector
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from processes import Stage
from publication import Publication
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from toolchains import ROOT, BuildError, build_go, build_typescript, missing
from traces import Trace

from stepwell import Client, StepwellError

SOURCE = ROOT / "docs"
# Seconds.
STARTED = 60.0
BUILT = 400.0
PUBLISHED = 120.0
console = Console()


async def connect(stage: Stage) -> Client:
    """Waits for the service. Raises `RuntimeError` when it has ended, `TimeoutError` when it takes too long."""
    async with asyncio.timeout(STARTED):
        while True:
            if stage.ended():
                raise RuntimeError(f"the service has ended: see {stage.log}")
            with contextlib.suppress(StepwellError, OSError, TimeoutError):
                return await Client.connect(stage.address, connect_timeout=2)
            await asyncio.sleep(0.1)


async def set_up(stage: Stage) -> Client:
    """Starts the service, and builds the workers meanwhile; starts them."""
    console.print("starting a service; building the workers in Go and TypeScript")
    stage.start_server()
    async with asyncio.timeout(BUILT):
        stage.commands["go"], stage.commands["typescript"] = await asyncio.gather(build_go(), build_typescript())
    client = await connect(stage)
    for language in stage.commands:
        stage.start_worker(language)
    console.print(f"a service at {stage.address}, and a worker each in {', '.join(stage.workers)}")
    return client


def tracing(collector: str) -> TracerProvider:
    """The demo's own part in the trace: its root."""
    provider = TracerProvider(resource=Resource.create({"service.name": "demo"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector, insecure=True)))
    return provider


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there is to judge."""

    trace_id: str
    result: dict[str, Any]
    recorded: list[Recorded]
    kill: Kill | None


async def publish(stage: Stage, client: Client, collector: Collector, target: Path) -> Outcome:
    """Runs the workflow under a span of the demo's own."""
    provider = tracing(collector.address)
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        publication = Publication(stage, client, progress, SOURCE, target)
        span = provider.get_tracer("demo").start_span("publish the handbook")
        with trace.use_span(span):
            run = await publication.start()
        async with asyncio.timeout(PUBLISHED):
            result = await publication.finish(run)
        span.end()
    # It waits for the collector, which lives on this loop.
    await asyncio.to_thread(provider.shutdown)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    return Outcome(trace_id, result, await publication.recorded(), publication.kill)


def show(recorded: list[Recorded], verdict: Verdict) -> None:
    """Who did what, and the figures."""
    table = Table(title="what was recorded")
    for column in ("run", "step", "language", "steps", "attempts"):
        table.add_column(column, justify="right" if column in {"steps", "attempts"} else "left")
    for each in recorded:
        for name, steps in each.by_name().items():
            attempts = sum(max(step.attempt, 1) for step in steps)
            table.add_row(each.run.type, name, LANGUAGES[name], str(len(steps)), str(attempts))
    console.print(table)
    for name, value in verdict.figures.items():
        console.print(f"{name}: {value}")


async def perform(stage: Stage, collector: Collector, target: Path) -> int:
    """The whole demo; answers the exit code."""
    began = time.monotonic()
    client = await set_up(stage)
    found = await publish(stage, client, collector, target)
    await client.close()
    await stage.close()
    verdict = judge(found.result, found.recorded, found.kill, SOURCE, target)
    traced = Trace(found.trace_id, collector.spans, found.recorded, found.kill)
    verdict.faults += traced.faults()
    console.print(traced.tree())
    show(found.recorded, verdict)
    console.print(f"{time.monotonic() - began:.0f} s")
    for fault in verdict.faults[:20]:
        console.print(f"[bold red]fault:[/] {fault}")
    if not verdict.faults:
        console.print("[bold green]everything adds up[/]: three languages, one run, one trace, nothing lost")
    return 1 if verdict.faults else 0


async def play(folder: Path) -> int:
    """Performs between a collector's start and its end; whatever happens, nobody is left behind."""
    collector = Collector()
    await collector.start()
    stage = Stage(folder, collector.address)
    target = folder / "published"
    target.mkdir()
    try:
        return await perform(stage, collector, target)
    finally:
        stage.end()
        await collector.close()


def main() -> int:
    """Runs in a folder of its own, which goes if all went well."""
    if wanted := missing():
        console.print("\n".join(wanted))
        return 2
    folder = Path(tempfile.mkdtemp(prefix="stepwell-polyglot-"))
    # An unprivileged Postgres must be able to pass, when this is run as root.
    folder.chmod(0o711)
    code = 1
    try:
        code = asyncio.run(play(folder))
    except BuildError as failed:
        console.print(str(failed), markup=False)
    finally:
        if code:
            console.print(f"what was left behind: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
