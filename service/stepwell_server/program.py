"""What the program's commands share: settings from the environment, one run of the loop, results, errors in words."""

from __future__ import annotations

import asyncio
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from stepwell_server import refusals, running, telemetry
from stepwell_server.embedded import EmbeddedError
from stepwell_server.service import StartError
from stepwell_server.settings import Settings
from stepwell_server.store import migrations, restorations
from stepwell_server.store.directness import Misaddressed
from stepwell_server.store.faults import Lost, translated

if TYPE_CHECKING:
    from collections.abc import Coroutine

USAGE = 2
_TOLD = (StartError, EmbeddedError, migrations.MigrationError, restorations.RestorationError)


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]


def read_settings(**given: object) -> Settings:
    """The environment's settings, and over them what the command line gave."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}" for each in error.errors()]
        die("\n".join(lines), USAGE)


def need_url(settings: Settings) -> str:
    """The database's address, without which nothing can be done."""
    url = settings.direct_url()
    if url is None:
        die(
            "STEPWELL_DATABASE_URL is not set, nor STEPWELL_DATABASE_URL_FILE: it must name the Postgres to work on, "
            "such as postgresql://user:password@host:5432/database. `stepwell-server dev` brings one of its own.",
            USAGE,
        )
    return url


def set_up(settings: Settings, form: str) -> None:
    """Sets up logs and traces."""
    telemetry.set_up_logs(settings.log_level, form)
    try:
        telemetry.set_up_tracing()
    except Exception as error:  # noqa: BLE001 - whatever the exporters find wrong with the environment
        die(f"telemetry can't be set up: {error}", USAGE)


def run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the work comes to
    """Runs work to its end; what it can't do is one sentence."""
    try:
        with asyncio.Runner(loop_factory=running.loop_factory()) as runner:
            return runner.run(work)
    except (*_TOLD, Misaddressed, refusals.Refusal) as error:
        die(str(error))
    except Exception as error:
        if translated(error) is error and not isinstance(error, Lost):
            raise
        die(f"the database can't be used: {str(error) or type(error).__name__}")
    finally:
        telemetry.shut_down_tracing()


def show(facts: dict[str, object], output: Output) -> None:
    """Prints what was done."""
    if output is Output.JSON:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    advice = facts.pop("advice", None)
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, ", ".join(map(str, value)) or "-" if isinstance(value, list) else str(value))
    console = Console(highlight=False)
    console.print(table)
    if advice is not None:
        console.print(str(advice), soft_wrap=True, markup=False)


def die(message: str, code: int = 1) -> NoReturn:
    """Ends the program with what is wrong."""
    sys.stderr.write(f"stepwell-server: {message}\n")
    raise typer.Exit(code)
