"""`stepwell definition`: workflows as data, in versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say, show, show_list, time_of, value_of
from stepwell.cli.runs import value_from
from stepwell.cli.session import fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.v1.definitions_pb2 import Definition
    from stepwell.workflow_definitions import DefinitionFields

app = typer.Typer(help="Definitions: workflows as data, in versions.", no_args_is_help=True)

Code = Annotated[str, typer.Argument(metavar="CODE", help="What all versions of it share.")]
Latest = Annotated[int, typer.Option(help="The version. Default: the latest.", min=0)]
All = Annotated[int, typer.Option(help="The version. Default: all of them.", min=0)]
Body = Annotated[str, typer.Option(help="What it says, as JSON; `@file` reads it from a file.")]
Name = Annotated[str, typer.Option(help="What people call it.")]
Description = Annotated[str, typer.Option(help="What it is for.")]
_COLUMNS: dict[str, Callable[[Definition], object]] = {
    "CODE": lambda each: each.code,
    "VERSION": lambda each: each.version,
    "NAME": lambda each: each.name,
    "ACTIVE": lambda each: "active" if each.active else "",
    "CREATED": lambda each: time_of(each.create_time),
}


@app.command()
def create(
    context: typer.Context,
    code: Code,
    *,
    body: Body = "",
    name: Name = "",
    description: Description = "",
    version: Annotated[int, typer.Option(help="The version. Default: the next.", min=0)] = 0,
    inactive: Annotated[bool, typer.Option("--inactive", help="New runs do not follow it yet.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a version of a definition."""
    fields: DefinitionFields = {"name": name, "description": description, "active": not inactive}
    if body:
        fields["body"] = value_from(body)
    with context.obj.client() as client:
        _show(client.definitions.create(code, version=version, **fields), output)


@app.command("show")
def show_definition(
    context: typer.Context, code: Code, *, version: Latest = 0, output: OutputOption = Output.TABLE
) -> None:
    """Show a version of a definition."""
    with context.obj.client() as client:
        _show(client.definitions.get(code, version), output)


@app.command("list")
def list_definitions(
    context: typer.Context,
    *,
    active: Annotated[bool, typer.Option("--active", help="Only active ones.")] = False,
    only: Annotated[str, typer.Option("--filter", help="Only those that fit: see docs/lists.md.")] = "",
    order_by: Annotated[str, typer.Option(help="Fields to sort by.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List definitions by code and version."""
    with context.obj.client() as client:
        found = client.definitions.list(active_only=active, filter=only, order_by=order_by)
        show_list(found, _COLUMNS, output, "there is no definition")


@app.command()
def versions(context: typer.Context, code: Code, output: OutputOption = Output.TABLE) -> None:
    """List the versions of a definition, the latest first."""
    with context.obj.client() as client:
        show_list(client.definitions.versions(code), _COLUMNS, output, f"there is no definition {code}")


@app.command()
def search(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What the name or the code holds.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Find definitions by a part of their name or code."""
    with context.obj.client() as client:
        show_list(client.definitions.search(text), _COLUMNS, output, f"no definition holds {text}")


@app.command()
def update(
    context: typer.Context,
    code: Code,
    *,
    version: Latest = 0,
    body: Body = "",
    name: Name = "",
    description: Description = "",
    expected_revision: Annotated[int, typer.Option(help="Only if it still has this revision.", min=0)] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change a version of a definition."""
    fields: DefinitionFields = {}
    if body:
        fields["body"] = value_from(body)
    if name:
        fields["name"] = name
    if description:
        fields["description"] = description
    if not fields:
        fail("nothing is to be changed", "give --body, --name or --description")
    with context.obj.client() as client:
        _show(client.definitions.update(code, version, expected_revision=expected_revision, **fields), output)


@app.command()
def activate(context: typer.Context, code: Code, *, version: All = 0, output: OutputOption = Output.TABLE) -> None:
    """Let new runs follow a version of a definition, or all versions."""
    with context.obj.client() as client:
        found = client.definitions.activate(code, version)
        say(f"{code} is active" if found else f"there is no {code}", {"code": code, "found": found}, output)


@app.command()
def deactivate(context: typer.Context, code: Code, *, version: All = 0, output: OutputOption = Output.TABLE) -> None:
    """Keep new runs from following a version of a definition, or all versions."""
    with context.obj.client() as client:
        found = client.definitions.deactivate(code, version)
        say(f"{code} is not active" if found else f"there is no {code}", {"code": code, "found": found}, output)


@app.command()
def delete(context: typer.Context, code: Code, *, version: All = 0, output: OutputOption = Output.TABLE) -> None:
    """Delete a version of a definition that no run follows, or all versions."""
    with context.obj.client() as client:
        count = client.definitions.delete(code, version)
        say(f"versions deleted: {count}", {"code": code, "deleted_count": count}, output)


def _show(definition: Definition, output: Output) -> None:
    rows = {
        "code": definition.code,
        "version": definition.version,
        "id": definition.definition_id,
        "name": definition.name,
        "description": definition.description,
        "active": "active" if definition.active else "inactive",
        "revision": definition.revision,
        "created": time_of(definition.create_time),
        "changed": time_of(definition.update_time),
        "metadata": value_of(definition.metadata),
        "body": value_of(definition.body),
    }
    show(definition, rows, output)
