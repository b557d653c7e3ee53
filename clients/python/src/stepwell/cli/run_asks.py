"""`stepwell run query` and `stepwell run update`: ask a run's code."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

import typer

from stepwell import errors
from stepwell.cli.output import Output, OutputOption, say
from stepwell.cli.runs import Input, Named, Timeout, handle_of, value_from
from stepwell.cli.session import fail


def query(
    context: typer.Context,
    *,
    name: Named,
    query_name: Annotated[str, typer.Argument(metavar="QUERY", help="What is asked for.")],
    value: Input = "",
    wait: Annotated[float, typer.Option(help="Seconds that the run's worker has, at most 15.")] = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a run's code about its state, or read what it last published under that name."""
    with context.obj.client() as client:
        answer = handle_of(client, name).query(query_name, value_from(value), wait=wait)
        time = None if answer.publish_time is None else answer.publish_time.isoformat()
        text, value = _shown(answer.value)
        facts = {"result": value, "live": answer.is_live, "publish_time": time}
        say(text if time is None else f"{text}  (published {time})", facts, output)


def update(
    context: typer.Context,
    *,
    name: Named,
    update_name: Annotated[str, typer.Argument(metavar="UPDATE", help="What is to be done.")],
    value: Input = "",
    update_id: Annotated[str, typer.Option(help="Makes a repeat safe. Default: a new one.")] = "",
    accepted: Annotated[bool, typer.Option("--accepted", help="Wait until it is accepted only.")] = False,
    timeout: Timeout = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a run's code to make a change, and print its answer. Exits with 1 if there is none, with 2 when too late."""
    with context.obj.client() as client:
        wait_for: Literal["accepted", "completed"] = "accepted" if accepted else "completed"
        options: Any = {"update_id": update_id, "wait_for": wait_for, "timeout": timeout}
        try:
            result = handle_of(client, name).update(update_name, value_from(value), **options)
        except TimeoutError:
            print(f"the update is not {wait_for} within {timeout:g} s", file=sys.stderr)
            sys.exit(2)
        except errors.UpdateError as error:
            fail(str(error))
        text, shown = _shown(result)
        facts = {"stage": wait_for.upper(), "result": shown}
        say(f"update {update_name} is accepted" if accepted else text, facts, output)


def _shown(value: Any) -> tuple[str, Any]:  # noqa: ANN401 - whatever the code answered
    """A value as people see it, and as JSON can hold it."""
    text = f"({len(value)} bytes)" if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False)
    return text, text if isinstance(value, bytes) else value
