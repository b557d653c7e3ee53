"""The program: `stepwell-server dev | serve | migrate | check`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from stepwell_server import running, telemetry
from stepwell_server.embedded import EmbeddedError
from stepwell_server.service import StartError
from stepwell_server.settings import Settings
from stepwell_server.store import migrations
from stepwell_server.store.database import translated

if TYPE_CHECKING:
    from collections.abc import Coroutine

app = typer.Typer(
    name="stepwell-server",
    help="A durable-workflow service: gRPC in front, Postgres behind. Everything can be set by STEPWELL_* variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_USAGE = 2


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


Host = Annotated[str | None, typer.Option(help="Address to serve on (STEPWELL_HOST).", show_default="127.0.0.1")]
Port = Annotated[
    int | None, typer.Option(help="Port to serve on; 0 takes a free one (STEPWELL_PORT).", show_default="7233")
]
TestClock = Annotated[bool, typer.Option("--test-clock", help="Let callers move the clock. For tests only.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]


@app.command()
def dev(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the Postgres lives, made if missing (STEPWELL_DEV_DATA_DIR).")
    ] = None,
    host: Host = None,
    port: Port = None,
    test_clock: TestClock = False,  # noqa: FBT002 - a flag
) -> None:
    """Serve with a Postgres of its own: nothing else is needed. For development.

    The data stay in the folder. One process owns a folder at a time; a Postgres that outlived its owner is adopted.
    """
    settings = _settings(dev_data_dir=data_dir, host=host, port=port, test_clock=test_clock or None)
    form = settings.log_format if "STEPWELL_LOG_FORMAT" in os.environ else "console"
    _set_up(settings, form)
    _run(running.dev(settings, _announce))


@app.command()
def serve(host: Host = None, port: Port = None, test_clock: TestClock = False) -> None:  # noqa: FBT002 - a flag
    """Serve on the Postgres that STEPWELL_DATABASE_URL names.

    The schema must have been made by `stepwell-server migrate`; until it suits, the server stands by, not ready.
    """
    settings = _settings(host=host, port=port, test_clock=test_clock or None)
    _need_url(settings)
    _set_up(settings, settings.log_format)
    _run(running.serve(settings))


@app.command()
def migrate(output: OutputOption = Output.TABLE) -> None:
    """Bring the database to this server's schema, while others work on it. Safe to run twice, also at once."""
    settings = _settings()
    url = _need_url(settings)
    _set_up(settings, settings.log_format)
    applied = _run(migrations.migrate(url, schema=settings.database_schema))
    facts = {
        "schema": settings.database_schema,
        "from_version": applied.from_version,
        "version": applied.version,
        "applied": list(applied.numbers),
    }
    _print(facts, output)


@app.command()
def check(output: OutputOption = Output.TABLE) -> None:
    """Tell whether this server may run on the database, and what to do if not. Changes nothing; exits 1 if not."""
    settings = _settings()
    window = _run(migrations.check(_need_url(settings), schema=settings.database_schema))
    facts = {
        "schema": window.schema,
        "standing": window.standing.name,
        "version": window.version,
        "min_server": window.min_server,
        "server": window.server,
        "may_run": window.may_run,
        "advice": window.advice,
    }
    _print(facts, output)
    if not window.may_run:
        raise typer.Exit(1)


def main() -> None:
    """Runs the program."""
    app()


def _settings(**given: object) -> Settings:
    """The environment's settings, and over them what the command line gave."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}" for each in error.errors()]
        _die("\n".join(lines), _USAGE)


def _need_url(settings: Settings) -> str:
    if settings.database_url is None:
        _die(
            "STEPWELL_DATABASE_URL is not set: it must name the Postgres to work on, such as "
            "postgresql://user:password@host:5432/database. `stepwell-server dev` brings one of its own.",
            _USAGE,
        )
    return settings.database_url


def _set_up(settings: Settings, form: str) -> None:
    telemetry.set_up_logs(settings.log_level, form)
    try:
        telemetry.set_up_tracing()
    except Exception as error:  # noqa: BLE001 - whatever the exporters find wrong with the environment
        _die(f"telemetry can't be set up: {error}", _USAGE)


def _run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the work comes to
    try:
        with asyncio.Runner(loop_factory=running.loop_factory()) as runner:
            return runner.run(work)
    except (StartError, EmbeddedError, migrations.MigrationError) as error:
        _die(str(error))
    except Exception as error:
        if translated(error) is error:
            raise
        _die(f"the database can't be used: {str(error) or type(error).__name__}")
    finally:
        telemetry.shut_down_tracing()


def _announce(address: str, folder: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]Stepwell[/bold] serves on [bold]{address}[/bold]")
    console.print(f"  data     {folder}")
    console.print(f"  try      grpcurl -plaintext {address} stepwell.v1.NamespaceService/ListNamespaces")
    console.print("  end      Ctrl-C")


def _print(facts: dict[str, object], output: Output) -> None:
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


def _die(message: str, code: int = 1) -> NoReturn:
    sys.stderr.write(f"stepwell-server: {message}\n")
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
