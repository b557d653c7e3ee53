"""`stepwell conformance`: holds a worker, given as a command, against the worker protocol."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwell import conformance
from stepwell.cli.output import Output, OutputOption
from stepwell.cli.session import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.conformance import Case, Result

app = typer.Typer(add_completion=False)

_FILE_WIDTH = 200
_INTERRUPTED = 130


class Only(StrEnum):
    """What a worker may be held against."""

    ACTIVITIES = "activities"
    WORKFLOWS = "workflows"


@app.command(name="conformance")
def check(  # noqa: PLR0917 - the options of one command
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="What starts the worker.", show_default=False)
    ] = None,
    only: Annotated[Only | None, typer.Option(help="Only what concerns these.")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Only this case; may be given several times.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes more than a few seconds.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the cases, and run none.")] = False,
    lanes: Annotated[int, typer.Option(help="How many cases to run side by side.", min=1, max=32)] = conformance.LANES,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hold a worker in any language against the worker protocol: docs/conformance.md says what it must be.

    Starts a service of its own (stepwell-server must be installed), and the command for the cases. Exits with 1 if one
    failed.
    """
    cases = _chosen(only, case or [], is_quick=quick)
    if listed:
        _list(cases, output)
        return
    if not command:
        fail("there is no worker to run", "give its command behind two dashes: stepwell conformance -- ./worker")
    _without_logs_of_grpc()
    results = asyncio.run(_run(command, cases, lanes, output))
    if output is Output.JSON:
        told = {"command": command, "cases": [conformance.as_dict(each) for each in results]}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    sys.exit(0 if all(each.has_passed for each in results) else 1)


def _without_logs_of_grpc() -> None:
    """It tells of connections that workers end, as they often do here, and reads when it is loaded what to tell."""
    if "GRPC_VERBOSITY" not in os.environ:
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GRPC_VERBOSITY": "NONE"})  # noqa: S606 - itself


def _chosen(only: Only | None, names: Sequence[str], *, is_quick: bool) -> list[Case]:
    unknown = [name for name in names if name not in conformance.CASES]
    if unknown:
        fail(f"there is no case {unknown[0]}", "see `stepwell conformance --list`")
    cases = conformance.chosen(only.value if only else None, names, is_quick=is_quick)
    if not cases:
        fail("no case is left", "leave out --only or --quick, or name other cases")
    return cases


def _list(cases: Sequence[Case], output: Output) -> None:
    if output is Output.JSON:
        told = [{"name": each.name, "kind": each.kind, "about": each.about, "protocol": each.link} for each in cases]
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("CASE", "OF", "WHAT IT DOES"):
        table.add_column(name, overflow="fold")
    for each in cases:
        table.add_row(each.name, each.kind, each.about)
    _console().print(table)


async def _run(command: Sequence[str], cases: Sequence[Case], lanes: int, output: Output) -> list[Result]:
    told = _Told(cases, is_silent=output is Output.JSON)
    _leave_in_order()
    try:
        with told.status:
            return await conformance.run(command, cases, told.add, lanes)
    except RuntimeError as error:
        fail(str(error))
    except asyncio.CancelledError:
        sys.exit(_INTERRUPTED)
    finally:
        told.close()


def _leave_in_order() -> None:
    """Interrupted, the command ends the processes that it has started. Others have none, and leave at once."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if sys.platform == "win32" or task is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class _Told:
    """Results as they come: a line for each, below it what was wrong, and the sum at the end."""

    def __init__(self, cases: Sequence[Case], *, is_silent: bool) -> None:
        self._console = _console(stderr=is_silent)
        self._is_silent = is_silent
        self._width = max((len(each.name) for each in cases), default=0)
        self._count = len(cases)
        self._passed = self._failed = 0
        self.status = self._console.status("starting a service")
        if not is_silent:
            self._print(Text(f"{'CASE':<{self._width}}  {'':6}  {'TIME':>7}  WHAT IT DOES", style="bold"))

    def add(self, result: Result) -> None:
        """Tells what came of a case."""
        self._passed += result.has_passed
        self._failed += not result.has_passed
        self.status.update(f"{self._passed + self._failed} of {self._count}")
        if self._is_silent:
            return
        line = Text(f"{result.case.name:<{self._width}}  ")
        line.append("passed" if result.has_passed else "FAILED", style="green" if result.has_passed else "red")
        line.append(f"  {result.seconds:5.1f} s  {result.case.about}")
        self._print(line)
        if result.broken is not None:
            self._explain(result)

    def _explain(self, result: Result) -> None:
        if result.broken is None:
            return
        facts = {"expected": result.broken.expected, "seen": result.broken.seen}
        facts["protocol"] = conformance.where(result)
        for name, text in facts.items():
            self._print(Text(f"    {name:<9} ", style="bold").append(text, style="not bold"))
        for said in result.said:
            self._print(Text(f"    {said}", style="dim"))
        for logged in result.log.splitlines():
            self._print(Text(f"    log        {logged}", style="dim"))

    def close(self) -> None:
        """Tells the sum."""
        if self._passed + self._failed and not self._is_silent:
            failed = Text(f", {self._failed} failed", style="red") if self._failed else Text("")
            self._print(Text(f"{self._passed} of {self._count} passed").append_text(failed))

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)
        self._console.file.flush()


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_FILE_WIDTH)
