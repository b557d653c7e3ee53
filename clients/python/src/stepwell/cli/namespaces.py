"""`stepwell namespace`: make, see and remove namespaces."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, age_of, say, show, show_list, time_of
from stepwell.cli.retention import seconds_of
from stepwell.cli.session import fail

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
def update(
    context: typer.Context,
    name: Name,
    *,
    retention: Annotated[
        str, typer.Option(help="For how long to keep runs after their end, such as 30d or 12h; or forever.")
    ] = "",
    archive: Annotated[
        str | None, typer.Option(help="Where to archive ended runs, such as s3://bucket/prefix; '' for nowhere.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change for how long a namespace keeps ended runs, and where it archives them."""
    if not retention and archive is None:
        fail("nothing would change", "give --retention, --archive, or both")
    kept = "forever" if retention == "forever" else seconds_of(retention) if retention else None
    with context.obj.client() as client:
        changed = client.update_namespace(name, retention=kept, archive_url=archive)
        rows = {
            "namespace": changed.name,
            "retention": age_of(changed.retention) if changed.HasField("retention") else "for ever",
            "archive": changed.archive_url,
        }
        show(changed, rows, output)


@app.command()
def delete(context: typer.Context, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Delete an empty namespace."""
    with context.obj.client() as client:
        deleted = client.delete_namespace(name)
        text = f"namespace {name} was deleted" if deleted else f"there is no namespace {name} that can be deleted"
        say(text, {"namespace": name, "deleted": deleted}, output)
