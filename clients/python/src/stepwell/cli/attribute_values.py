"""Search attributes as the command writes and reads them: NAME=VALUE."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stepwell.cli.session import fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stepwell.search_attributes import Value


def pairs_from(pairs: Iterable[str]) -> dict[str, Value]:
    """Gives NAME=VALUE as values by name: a number, `true` or `false`, else text. Quotes make anything text."""
    values: dict[str, Value] = {}
    for pair in pairs:
        name, mark, text = pair.partition("=")
        if not mark:
            fail(f"{pair} names no value", "write NAME=VALUE")
        values[name] = _value_from(text)
    return values


def shown(value: Value) -> str:
    """Gives a value so that `pairs_from` reads it again; a time as people write it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool | int | float) else str(value or "")


def in_a_line(values: Mapping[str, Value]) -> str:
    """Gives values as NAME=VALUE, with commas between."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def _value_from(text: str) -> Value:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, str | bool | int | float) else text
