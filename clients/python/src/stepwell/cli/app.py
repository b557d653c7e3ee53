"""The command's root: how to reach the service, and the groups, each read when it is named."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stepwell.cli.session import Session, fail
from stepwell.errors import CertificateError
from stepwell.tls import Tls

GROUPS = {
    "run": "run_commands",
    "bulk": "bulk",
    "job": "job_commands",
    "schedule": "schedules",
    "key": "keys",
    "topic": "topics",
    "stats": "stats",
    "task": "user_tasks",
    "definition": "definitions",
    "inbox": "inbox",
    "queue": "queues",
    "worker": "workers",
    "namespace": "namespaces",
    "retention": "retention",
}
"""The module of each, whose `app` it is. All together take longer to read than most commands to run."""

COMMANDS = {"conformance": "conformance", "torture": "torture"}
"""The same of what is a command by itself."""


class _Groups(TyperGroup):
    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 - typer's
        """Names all, read or not."""
        return [*GROUPS, *COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - the types are typer's own affair
        """Reads a group; all of them for a name that is none, so that what is like it can be suggested."""
        every = GROUPS | COMMANDS
        for name in [cmd_name] if cmd_name in every else every:
            if name not in self.commands:
                found = importlib.import_module(f"stepwell.cli.{every[name]}").app
                command = typer.main.get_group(found) if name in GROUPS else typer.main.get_command(found)
                command.name = name
                self.add_command(command)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="stepwell",
    cls=_Groups,
    help="Start, watch and steer durable runs, and jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    context: typer.Context,
    *,
    address: Annotated[
        str, typer.Option(help="Where the service listens.", envvar="STEPWELL_ADDRESS")
    ] = "127.0.0.1:7233",
    namespace: Annotated[str, typer.Option(help="Where runs and jobs live.", envvar="STEPWELL_NAMESPACE")] = "main",
    api_key: Annotated[
        str | None, typer.Option(help="What to prove oneself with.", envvar="STEPWELL_API_KEY", show_envvar=True)
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Encrypt the connection; so do the next options.", envvar="STEPWELL_TLS")
    ] = False,
    tls_ca: Annotated[
        Path | None, typer.Option(help="The CAs to trust, in PEM.", envvar="STEPWELL_TLS_CA_FILE")
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(help="One's own certificate, in PEM.", envvar="STEPWELL_TLS_CLIENT_CERTIFICATE_FILE"),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key, in PEM.", envvar="STEPWELL_TLS_CLIENT_KEY_FILE")
    ] = None,
) -> None:
    """Start, watch and steer durable runs, and jobs."""
    try:
        files = Tls(tls_ca, tls_certificate, tls_key)
    except CertificateError as error:
        fail(str(error))
    is_encrypted = tls or files != Tls()
    context.obj = Session(address, namespace=namespace, api_key=api_key, tls=files if is_encrypted else None)
