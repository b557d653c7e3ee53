"""Results as tables for people, or as JSON for programs."""

from __future__ import annotations

import datetime as dt
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwell.v1.types_pb2 import Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

_CELL_LENGTH = 80
_FILE_WIDTH = 240
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_STYLES = {
    "COMPLETED": "green",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "CANCELLED": "yellow",
    "TERMINATED": "yellow",
    "RUNNING": "cyan",
    "nobody": "red",
    "yes": "red",
}
_EVENT_STYLES = {
    "Completed": "green",
    "Failed": "red",
    "TimedOut": "red",
    "Cancelled": "yellow",
    "Terminated": "yellow",
}


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]


def _console() -> Console:
    """Gives a console; what goes into a file or a pipe is not folded to a terminal's width."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def show_list(
    items: Iterable[Message], columns: Mapping[str, Callable[[Any], object]], output: Output, none: str
) -> None:
    """Prints many things; `none` is what to say when there are none."""
    if output is Output.JSON:
        print(json.dumps([as_dict(item) for item in items], indent=2, ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for item in items:
        table.add_row(*(_cell(column(item)) for column in columns.values()))
    _console().print(table if table.row_count else none)


def show(item: Message, rows: Mapping[str, object], output: Output) -> None:
    """Prints one thing; rows without a value are left out."""
    if output is Output.JSON:
        print(json.dumps(as_dict(item), indent=2, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value not in {None, ""}:
            table.add_row(name, _cell(value, shorten=False))
    _console().print(table)


class Lines:
    """Things printed one by one as they happen: a line of a table, or an object of JSON."""

    def __init__(self, columns: Mapping[str, int], output: Output) -> None:
        """Prints the table's head. Columns have widths; the last one goes on to the end of the line."""
        self._widths = list(columns.values())
        self._output = output
        self._console = _console()
        if output is Output.TABLE:
            self._print(Text("  ".join(f"{name:<{width}}" for name, width in columns.items()).rstrip(), style="bold"))

    def add(self, item: Message, *cells: object) -> None:
        """Prints one thing."""
        if self._output is Output.JSON:
            print(json.dumps(as_dict(item), ensure_ascii=False), flush=True)
            return
        line = Text()
        for cell, width in zip(cells, self._widths, strict=True):
            text = _cell(cell)
            text.stylize(next((style for word, style in _EVENT_STYLES.items() if text.plain.endswith(word)), ""))
            text.pad_right(max(0, width - len(text)) + 2 if width else 0)
            line.append_text(text)
        line.rstrip()
        self._print(line)

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)
        self._console.file.flush()


def say(text: str, facts: Mapping[str, object], output: Output) -> None:
    """Prints what was done."""
    if output is Output.JSON:
        print(json.dumps(dict(facts), indent=2, ensure_ascii=False))
    else:
        _console().print(Text(text))


def _cell(value: object, *, shorten: bool = True) -> Text:
    text = "" if value is None else str(value)
    if shorten and len(text) > _CELL_LENGTH:
        text = text[: _CELL_LENGTH - 1] + "…"
    return Text(text, style=_STYLES.get(text, ""))


def as_dict(message: Message) -> dict[str, Any]:
    """Gives a message as JSON knows it, by the protocol's own names."""
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def value_of(payload: Payload) -> str:
    """Gives a payload as text."""
    body = payload.WhichOneof("body")
    if body == "data":
        return f"({len(payload.data)} bytes)"
    return payload.json if body == "json" else ""


def time_of(stamp: Timestamp) -> str:
    """Gives a time in the local zone, to the second; empty if there is none."""
    if not stamp.seconds:
        return ""
    return stamp.ToDatetime(dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age_of(duration: Duration) -> str:
    """Gives a length of time as people say it, in one unit; empty if it is none."""
    seconds = duration.seconds + duration.nanos / 1e9
    if not seconds:
        return ""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} d"


def span_of(start: Timestamp, end: Timestamp) -> str:
    """Gives a length of time, as `1.25 s`; empty if it has not ended."""
    if not start.seconds or not end.seconds:
        return ""
    seconds = end.seconds - start.seconds + (end.nanos - start.nanos) / 1e9
    return f"{seconds:.2f} s"
