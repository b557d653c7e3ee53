"""The benchmark: `python -m bench run | quick | page | list`. The Makefile has a word for each."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from bench import latest, page, quick
from bench.blocks import Bench, Sizes
from bench.cases import CASES
from bench.checks import CheckError
from bench.figures import Figure
from bench.ground import standing_ground
from bench.machine import commit, shape
from bench.processes import ProcessError
from bench.report import Progress, table
from bench.targets import targets
from stepwell_server.program import Output, OutputOption

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
T = TypeVar("T")
Failures = dict[str, str]


@app.command()
def run(
    case: Annotated[list[str] | None, typer.Option(help="A case to measure; may be given again.")] = None,
    long: Annotated[bool, typer.Option("--long", help="The cases that take long.")] = False,
    scale: Annotated[float, typer.Option(help="Shorter and fewer, to try a case; its figures are not kept.")] = 1.0,
    times: Annotated[int, typer.Option(help="How often each is measured.", min=1)] = 3,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure, show a table, and write bench/results/latest.json and docs/performance.md."""
    names = _chosen(case, is_long=long)
    figures, failures, machine = _run(_measure(names, Sizes(scale=scale, times=times)))
    judged = [targets()[each.case].judge(each) for each in figures]
    if scale >= 1 and times >= Sizes().times and judged:
        latest.write(latest.merged(latest.read(), judged, machine, commit(), list(targets())))
        page.write()
    _show(judged, failures, output)


@app.command("quick")
def run_quick() -> None:
    """Measure the first three rows once each; fail below three quarters of the last results."""
    figures, failures, _ = _run(_measure(quick.CASES, Sizes(times=1)))
    compared = quick.compare(figures, latest.read())
    for each in compared:
        print(each)
    for name, why in failures.items():
        print(f"{name} failed: {why}", file=sys.stderr)
    if failures or any(each.has_decayed for each in compared):
        raise typer.Exit(1)


@app.command("page")
def write_page() -> None:
    """Write the figures into docs/performance.md anew, and its plots."""
    page.write()


@app.command("list")
def list_cases() -> None:
    """List the cases and the rows that each fills."""
    for name, case in CASES.items():
        print(f"{name:<18} {'long  ' if case.is_long else '      '} {', '.join(case.rows)}")


def _chosen(names: Sequence[str] | None, *, is_long: bool) -> list[str]:
    if not names:
        return [name for name, case in CASES.items() if case.is_long is is_long]
    unknown = set(names) - CASES.keys()
    if unknown:
        raise typer.BadParameter(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return list(names)


async def _measure(names: Sequence[str], sizes: Sizes) -> tuple[list[Figure], Failures, dict[str, Any]]:
    """Measures the cases one after the other. One that fails is told, and leaves the others alone."""
    progress, figures, failures = Progress(len(names)), [], {}
    try:
        async with standing_ground() as ground:
            machine = await asyncio.to_thread(shape, ground.folder, await ground.version())
            for name in names:
                progress.begin(name)
                try:
                    figures += await CASES[name].measure(Bench(ground, sizes, progress.tell))
                except (ProcessError, CheckError) as error:
                    failures[name] = str(error)
                    progress.remark(f"{name} failed: {error}")
    finally:
        progress.end()
    return figures, failures, machine


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs to the end, or to Ctrl-C or SIGTERM: either way all that was started is ended."""

    async def until_told() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(until_told())
    except asyncio.CancelledError:
        sys.stderr.write("ended before it was done; nothing was written\n")
        raise typer.Exit(130) from None


def _show(figures: Sequence[Figure], failures: Failures, output: Output) -> None:
    rows = [each.as_json() for each in figures]
    if output is Output.JSON:
        sys.stdout.write(json.dumps({"cases": rows, "failures": failures}) + "\n")
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table(rows, targets()))
        for name, why in failures.items():
            print(f"{name} failed: {why}")
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
