"""`stepwell namespace`: make, see and remove namespaces."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say, show_list, time_of

app = typer.Typer(help="Namespaces.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The namespace's name.")]


@app.command()
def create(context: typer.Context, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Create a namespace."""
    with context.obj.client() as client:
        client.create_namespace(name)
        say(f"namespace {name} was created", {"namespace": name, "created": True}, output)


@app.command("list")
def list_namespaces(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List namespaces by name."""
    with context.obj.client() as client:
        columns = {"NAMESPACE": lambda each: each.name, "CREATED": lambda each: time_of(each.create_time)}
        show_list(client.list_namespaces(), columns, output, "there is no namespace")


@app.command()
def delete(context: typer.Context, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Delete an empty namespace."""
    with context.obj.client() as client:
        deleted = client.delete_namespace(name)
        text = f"namespace {name} was deleted" if deleted else f"there is no namespace {name} that can be deleted"
        say(text, {"namespace": name, "deleted": deleted}, output)
