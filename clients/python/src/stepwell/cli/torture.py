"""`stepwell torture`: load, faults, and whether all of it came out right."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stepwell.cli import main
from stepwell.cli.session import Session, fail
from stepwell.errors import ServiceError
from stepwell.torture import Plan, Report, TortureError, torture
from stepwell.torture.conductor import State
from stepwell.torture.faults import CHOSEN, Kind
from stepwell.torture.report import HEADS

app = typer.Typer(add_completion=False)

_FILE_WIDTH = 240
_SEEDS = 1_000_000
# Of each sort, what a person reads at once; JSON has all of it.
_SHOWN = 20


class Form(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


@app.command(name="torture")
def command(  # noqa: PLR0917 - the options of one command
    context: typer.Context,
    address: Annotated[
        str, typer.Option(help="A service that is there, as host:port: it is left alone. Default: starts one.")
    ] = "",
    worker: Annotated[
        list[str] | None, typer.Option(help="The command of a conformance worker; again for each language.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long there are load and faults.", min=1)] = Plan.seconds,
    settle_seconds: Annotated[
        float, typer.Option(help="How long what is left then has to end.", min=1)
    ] = Plan.settle_seconds,
    runs_per_second: Annotated[float, typer.Option(help="Starts a second, at most.", min=0.01)] = Plan.runs_per_second,
    open_runs: Annotated[int, typer.Option(help="Runs and jobs that are open, at most.", min=1)] = Plan.open_runs,
    effect_seconds: Annotated[float, typer.Option(help="How long an effect takes, at most.", min=0.5)] = (
        Plan.effect_seconds
    ),
    workers_each: Annotated[int, typer.Option(help="Processes of each worker command.", min=1)] = Plan.workers_each,
    replicas: Annotated[int, typer.Option(help="Replicas of the service that is started.", min=1)] = Plan.replicas,
    fault_seconds: Annotated[
        float, typer.Option(help="From one fault to the next, on average.", min=0.1)
    ] = Plan.fault_pause,
    session_seconds: Annotated[
        float, typer.Option(help="How long a worker's session lasts, of a service that is started.", min=2)
    ] = Plan.session_seconds,
    fault: Annotated[
        list[str] | None, typer.Option(help=f"Only these faults: {', '.join(kind.word for kind in CHOSEN)}.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="What all choices follow from. Default: another each time.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where logs, ledgers and the database go. Default: a temporary one, kept if all is not well."
        ),
    ] = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print the result.")] = Form.TABLE,
) -> None:
    """Run load on workers while they, their connections and the service are killed, frozen and cut.

    Exits with 1 if something was lost, recorded twice, stuck, or done twice without a fault that explains it.
    """
    session: Session = context.obj
    if session.is_encrypted:
        fail("what stands between workers and the service would not pass TLS: torture one that speaks in the clear")
    if not worker:
        fail("no worker: name the command of a conformance worker by --worker", "docs/torture.md says of which")
    try:
        kinds = _kinds(fault or ())
        plan = Plan(
            workers=tuple(worker),
            folder=_made(folder),
            seed=random.randrange(_SEEDS) if seed is None else seed,
            address=address,
            namespace=session.namespace,
            api_key=session.api_key or "",
            seconds=seconds,
            settle_seconds=settle_seconds,
            runs_per_second=runs_per_second,
            open_runs=open_runs,
            effect_seconds=effect_seconds,
            workers_each=workers_each,
            replicas=replicas,
            fault_pause=fault_seconds,
            session_seconds=session_seconds,
            kinds=kinds,
        )
        report = asyncio.run(_watched(plan))
    except (TortureError, ServiceError) as error:
        fail(str(error))
    except asyncio.CancelledError:
        fail("interrupted: all that was started has ended")
    _show(report, output)
    if folder is None and report.verdict.is_clean:
        shutil.rmtree(plan.folder, ignore_errors=True)
    else:
        print(f"logs and ledgers are in {plan.folder}", file=sys.stderr)
    sys.exit(0 if report.verdict.is_clean else 1)


def _kinds(words: Iterable[str]) -> frozenset[Kind]:
    known = {kind.word: kind for kind in CHOSEN}
    for word in words:
        if word not in known:
            raise TortureError(f"{word} is no fault: there are {', '.join(known)}")
    return frozenset(known[word] for word in words) or frozenset(CHOSEN)


def _made(folder: Path | None) -> Path:
    """The folder: one that the account of an embedded Postgres can pass, where it is ours to choose."""
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="stepwell-torture-"))
        folder.chmod(0o711)
    elif (folder / "data").exists():
        raise TortureError(f"{folder} is that of an earlier run: name another")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


async def _watched(plan: Plan) -> Report:
    """Tells how far it is; Ctrl-C and SIGTERM end it in order."""
    loop = asyncio.get_running_loop()
    working = asyncio.create_task(_told_of(plan))
    ending = _Ending(working)
    loop.add_signal_handler(signal.SIGTERM, ending.come)
    main.interrupted.append(lambda: ending.ask(loop))
    try:
        return await working
    finally:
        main.interrupted.clear()


async def _told_of(plan: Plan) -> Report:
    console = Console(stderr=True)
    console.print(f"seed {plan.seed}, {plan.seconds:g} s of faults, logs in {plan.folder}", soft_wrap=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=console) as progress:
        bar = progress.add_task("starting")
        return await torture(plan, lambda state: progress.update(bar, description=_words(state)))


class _Ending:
    """Cancels a task once: what it then tidies is not to be interrupted."""

    def __init__(self, task: asyncio.Task[Report]) -> None:
        self._task = task
        self._has_come = False

    def ask(self, loop: asyncio.AbstractEventLoop) -> None:
        """From another thread."""
        loop.call_soon_threadsafe(self.come)

    def come(self) -> None:
        """From the task's own."""
        if not self._has_come:
            self._has_come = True
            self._task.cancel()


def _words(state: State) -> str:
    left = f" for {state.seconds_left:.0f} s" if state.seconds_left else ""
    return f"{state.phase}{left}: {state.ended} of {state.started} ended, {state.faults} faults"


def _show(report: Report, output: Form) -> None:
    if output is Form.JSON:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    elif output is Form.MARKDOWN:
        print(report.as_markdown(), end="")
    else:
        console = Console()
        _print(console if console.is_terminal else Console(width=_FILE_WIDTH), report)


def _print(console: Console, report: Report) -> None:
    counts = {"seed": report.plan.seed, "seconds": f"{report.seconds:.0f}"} | report.counts
    console.print(_two_columns("WHAT", "COUNT", counts))
    languages = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("LANGUAGE", *(head.upper() for head in HEADS)):
        languages.add_column(head)
    for name, done in report.languages.items():
        languages.add_row(name, *map(str, done))
    console.print()
    console.print(languages)
    console.print()
    console.print(_two_columns("FAULT", "COUNT", report.by_kind))
    console.print()
    findings = report.findings
    console.print(_two_columns("VERDICT", "COUNT", {name: len(found) for name, found in findings.items()}))
    for name, found in findings.items():
        if found:
            console.print(Text(f"\n{name}:", style="bold"))
        for words in found[:_SHOWN]:
            console.print(Text(f"  {words}"), soft_wrap=True)
        if len(found) > _SHOWN:
            console.print(f"  and {len(found) - _SHOWN} more: --output json has them")
    is_clean = report.verdict.is_clean
    console.print(Text("\nclean" if is_clean else "\nNOT CLEAN", style="bold green" if is_clean else "bold red"))


def _two_columns(first: str, second: str, rows: dict[str, object] | dict[str, int]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first)
    table.add_column(second, justify="right")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table
