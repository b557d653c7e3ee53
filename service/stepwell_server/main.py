"""The program: `stepwell-server dev | serve | migrate | check | restored | bundle | keys`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stepwell_server import bundling, key_commands, running
from stepwell_server.program import USAGE, Output, OutputOption, die, need_url, read_settings, run, set_up, show
from stepwell_server.store import migrations, restorations
from stepwell_server.telemetry import set_up_logs

app = typer.Typer(
    name="stepwell-server",
    help="A durable-workflow service: gRPC in front, Postgres behind. Everything can be set by STEPWELL_* variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(key_commands.app, name="keys")
Host = Annotated[str | None, typer.Option(help="Address to serve on (STEPWELL_HOST).", show_default="127.0.0.1")]
Port = Annotated[
    int | None, typer.Option(help="Port to serve on; 0 takes a free one (STEPWELL_PORT).", show_default="7233")
]
PATIENCE = migrations.Patience()
PauseSchedules = Annotated[
    bool, typer.Option("--pause-schedules", help="Pause all schedules until somebody resumes them.")
]
TestClock = Annotated[bool, typer.Option("--test-clock", help="Let callers move the clock. For tests only.")]


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
    Nobody is asked for an API key, so only this machine is served, unless STEPWELL_REQUIRE_KEYS is set.
    """
    settings = read_settings(dev_data_dir=data_dir, host=host, port=port, test_clock=test_clock or None)
    if "require_keys" not in settings.model_fields_set:
        settings = settings.model_copy(update={"require_keys": False})
    if not settings.require_keys and not running.is_loopback(settings.host):
        die(
            f"{settings.host} can be reached from other machines, and `dev` asks nobody for an API key: serve on "
            "127.0.0.1, or set STEPWELL_REQUIRE_KEYS=true",
            USAGE,
        )
    form = settings.log_format if "STEPWELL_LOG_FORMAT" in os.environ else "console"
    set_up(settings, form)
    run(running.dev(settings, partial(_announce, is_plain=settings.tls_certificate_file is None)))


@app.command()
def serve(host: Host = None, port: Port = None, test_clock: TestClock = False) -> None:  # noqa: FBT002 - a flag
    """Serve on the Postgres that STEPWELL_DATABASE_URL names.

    The schema must have been made by `stepwell-server migrate`; until it suits, the server stands by, not ready.
    Callers need API keys, the first of which `stepwell-server keys create` makes; STEPWELL_REQUIRE_KEYS=false lets
    everybody in.
    """
    settings = read_settings(host=host, port=port, test_clock=test_clock or None)
    need_url(settings)
    set_up(settings, settings.log_format)
    run(running.serve(settings))


@app.command()
def migrate(
    lock_seconds: Annotated[
        float, typer.Option(help="Longest wait for a table's lock in one turn: others wait behind it.", min=0.001)
    ] = PATIENCE.lock_seconds,
    turns: Annotated[int, typer.Option(help="Turns to get a lock, a pause between them.", min=1)] = PATIENCE.turns,
    statement_seconds: Annotated[
        float, typer.Option(help="Longest statement of a migration that holds locks.", min=0.001)
    ] = PATIENCE.statement_seconds,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring the database to this server's schema, while others work on it. Safe to run twice, also at once.

    What was interrupted is finished by a repeat.
    """
    settings = read_settings()
    url = need_url(settings)
    set_up(settings, settings.log_format)
    patience = migrations.Patience(lock_seconds, turns, statement_seconds=statement_seconds)
    applied = run(migrations.migrate(url, schema=settings.database_schema, patience=patience))
    facts = {
        "schema": settings.database_schema,
        "from_version": applied.from_version,
        "version": applied.version,
        "applied": list(applied.numbers),
    }
    show(facts, output)


@app.command()
def check(output: OutputOption = Output.TABLE) -> None:
    """Tell whether this server may run on the database, and what to do if not. Changes nothing; exits 1 if not."""
    settings = read_settings()
    window = run(migrations.check(need_url(settings), schema=settings.database_schema))
    facts = {
        "schema": window.schema,
        "standing": window.standing.name,
        "version": window.version,
        "min_server": window.min_server,
        "server": window.server,
        "may_run": window.may_run,
        "advice": window.advice,
    }
    show(facts, output)
    if not window.may_run:
        raise typer.Exit(1)


@app.command()
def bundle(
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; - is standard output.")] = "-",
) -> None:
    """Collect what helps to find a fault: settings, database, metrics, as a .tar.gz without secrets or payloads.

    In a cluster: kubectl exec deploy/stepwell -- stepwell-server bundle > bundle.tar.gz
    """
    if output == "-" and sys.stdout.isatty():
        die("a bundle is no text: name a file with --output, or send the output to one", USAGE)
    settings = read_settings()
    set_up_logs("error", settings.log_format)
    files = run(bundling.collect(settings))
    if output == "-":
        bundling.write(files, sys.stdout.buffer)
        return
    with Path(output).open("wb") as out:
        bundling.write(files, out)
    sys.stderr.write(f"wrote {output}: {len(files)} files\n")


@app.command()
def restored(
    pause_schedules: PauseSchedules = False,  # noqa: FBT002 - a flag
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a database that was restored from a backup safe to serve. Before any server starts on it.

    All sessions end, and tokens, versions and keys jump ahead of all that was given out after the backup: workers and
    callers that know of a later time are refused.
    """
    settings = read_settings()
    need_url(settings)
    done = run(restorations.raise_all(settings, datetime.now(UTC), pauses_schedules=pause_schedules))
    show({"schema": settings.database_schema, **done._asdict()}, output)


def main() -> None:
    """Runs the program."""
    app()


def _announce(address: str, folder: Path, key: str, *, is_plain: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]Stepwell[/bold] serves on [bold]{address}[/bold]")
    console.print(f"  data     {folder}")
    if key:
        console.print(f"  key      {key}  (an admin's; keep it, it is not shown again)")
    how = "-plaintext" if is_plain else "-cacert CA_FILE"
    console.print(f"  try      grpcurl {how} {address} stepwell.v1.NamespaceService/ListNamespaces")
    console.print("  end      Ctrl-C")


if __name__ == "__main__":
    main()
