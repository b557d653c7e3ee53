"""Containers that are made when they are first asked for: of the many that a change may fill, most fill five."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Kinds = dict[str, type[dict[Any, Any]] | type[list[Any]]]


class Lazily:
    """A subclass says in `lazy` what its own are, and names them among its slots.

    `_lists` holds the lists that there are, so that a refused command is cut off them again. `made` names all that
    there are: who writes a change asks for no others.
    """

    __slots__ = ("_lists", "made")

    lazy: ClassVar[Mapping[str, Any]] = {}
    _lists: list[list[Any]]
    made: list[str]

    if not TYPE_CHECKING:  # the type checker would take any name for an attribute

        def __getattr__(self, name: str) -> dict | list:
            kind = self.lazy.get(name)
            if kind is None:
                raise AttributeError(f"{type(self).__name__} has no {name}")
            container = kind()
            setattr(self, name, container)
            self.made.append(name)
            if kind is list:
                self._lists.append(container)
            return container
