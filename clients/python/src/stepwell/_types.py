"""Readers: functions that turn what JSON gave into a value of a type. Made once per type."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Union

Reader = Callable[[Any], Any]

_TIMES = (dt.datetime, dt.date, dt.time)


def _same(value: object) -> object:
    return value


def reader_for(hint: object) -> Reader:
    """Gives the reader for a type; types that it does not know take what JSON gave."""
    try:
        return _made(hint)
    except TypeError:  # not hashable, such as an Annotated with a list in it
        return _make(hint)


def _make(hint: Any) -> Reader:  # noqa: ANN401 - type hints have no common type
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return reader_for(typing.get_args(hint)[0])
    if origin is not None:
        return _generic(origin, typing.get_args(hint))
    if isinstance(hint, type):
        return _concrete(hint)
    return _same


_made: Callable[[object], Reader] = functools.lru_cache(maxsize=4096)(_make)


def _concrete(hint: type) -> Reader:
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint)
    if issubclass(hint, enum.Enum | uuid.UUID | PurePath):
        return hint
    if issubclass(hint, _TIMES):
        return hint.fromisoformat
    if issubclass(hint, dt.timedelta):
        return lambda seconds: dt.timedelta(seconds=seconds)
    if issubclass(hint, tuple) and hasattr(hint, "_fields"):
        readers = [reader_for(kind) for kind in typing.get_type_hints(hint).values()]
        return lambda values: hint(*(read(value) for read, value in zip(readers, values, strict=True)))
    if hint in {set, frozenset, tuple, float}:
        return hint
    return _same


def _dataclass(hint: type) -> Reader:
    hints = typing.get_type_hints(hint)
    fields = [(field.name, reader_for(hints[field.name])) for field in dataclasses.fields(hint) if field.init]

    def read(value: Mapping[str, Any]) -> object:
        if not isinstance(value, Mapping):
            raise TypeError(f"{hint.__qualname__} is an object, not {type(value).__name__}")
        return hint(**{name: reader(value[name]) for name, reader in fields if name in value})

    return read


def _generic(origin: object, arguments: tuple[Any, ...]) -> Reader:
    if origin is Union or origin is types.UnionType:
        return _union(arguments)
    if not isinstance(origin, type):
        return _same
    if dataclasses.is_dataclass(origin):
        return _dataclass(origin)
    if issubclass(origin, tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:  # noqa: PLR2004 - tuple[T, ...]
            return _sequence(tuple, reader_for(arguments[0]))
        readers = [reader_for(kind) for kind in arguments]
        return lambda values: tuple(read(value) for read, value in zip(readers, values, strict=True))
    if issubclass(origin, Mapping):
        return _mapping(*(reader_for(kind) for kind in arguments))
    if issubclass(origin, set | frozenset):
        return _sequence(origin, reader_for(arguments[0]))
    if issubclass(origin, Sequence) or origin is typing.get_origin(typing.Iterable[int]):
        return _sequence(list, reader_for(arguments[0]))
    return _same


def _mapping(keys: Reader, values: Reader) -> Reader:
    if keys is _same and values is _same:
        return lambda items: dict(items.items())
    return lambda items: {keys(key): values(value) for key, value in items.items()}


def _sequence(made: Callable[[Any], Any], read: Reader) -> Reader:
    if read is _same:
        return made
    return lambda values: made([read(value) for value in values])


def _union(arguments: tuple[Any, ...]) -> Reader:
    """Takes `None` for `None`, else the first member that takes the value."""
    readers = [reader_for(kind) for kind in arguments if kind is not type(None)]
    plain = tuple(kind for kind in arguments if kind in {str, int, float, bool, list, dict})

    def read(value: object) -> object:
        if value is None or type(value) in plain:
            return value
        errors: list[Exception] = []
        for reader in readers:
            try:
                return reader(value)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                errors.append(error)
        raise errors[0]

    return read
