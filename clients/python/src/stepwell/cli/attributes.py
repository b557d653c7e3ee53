"""`stepwell run attributes`: what a run is found by, shown or changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.cli.attribute_values import pairs_from, shown
from stepwell.cli.output import Output, OutputOption, say
from stepwell.cli.runs import Named, handle_of
from stepwell.search_attributes import values_of

if TYPE_CHECKING:
    from stepwell.search_attributes import Value


def attributes(
    context: typer.Context,
    name: Named,
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="What to set: text, a number, true or false.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A name to take away. May be repeated.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a run's search attributes, or set some. What is not named stays."""
    patch: dict[str, Value] = {**pairs_from(pairs or ()), **dict.fromkeys(remove or ())}
    with context.obj.client() as client:
        handle = handle_of(client, name)
        values = handle.set_attributes(patch) if patch else values_of(handle.describe().search_attributes)
    facts = {
        key: value if value is None or isinstance(value, bool | int | float) else str(value)
        for key, value in values.items()
    }
    say("\n".join(f"{key} = {shown(value)}" for key, value in values.items()) or "there are none", facts, output)
