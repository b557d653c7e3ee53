"""What a case is: a function that drives a worker and raises `Broken`, and what is known of it without running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from stepwell.conformance.stage import Stage

Kind = Literal["activities", "workflows"]
Run = Callable[["Stage"], Awaitable[None]]

PROTOCOL = "docs/protocol.md"
ANCHORS = {
    "words": "words",
    "stream": "the-stream",
    "fields": "who-may-send-what-when",
    "sessions": "sessions",
    "capacity": "capacity",
    "activities": "activities",
    "runs": "runs",
    "dropped": "being-dropped",
    "hash": "the-order-hash",
    "queries": "queries",
    "updates": "updates",
    "cancellation": "cancellation",
    "refusals": "refusals",
    "losses": "what-each-loss-or-delay-leads-to",
    "leaving": "leaving-drain-and-rotate",
}
"""Where the protocol asks for what a case looks at."""


class Broken(Exception):  # noqa: N818 - a fact, and no error of the kit's
    """The worker did otherwise than the protocol asks: what was `expected`, what was `seen`, and the section."""

    def __init__(self, expected: str, seen: str, section: str) -> None:
        """Keeps the facts; `section` is one of `ANCHORS`, empty for the case's own."""
        super().__init__(f"expected: {expected}; seen: {seen}")
        self.expected = expected
        self.seen = seen
        self.section = section


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A case. `settings` are variables of a worker process of its own; without any it may share one with others."""

    name: str
    about: str
    kind: Kind
    section: str
    run: Run
    seconds: float
    is_alone: bool
    is_long: bool
    settings: dict[str, str]

    @property
    def link(self) -> str:
        """Where the protocol says so."""
        return f"{PROTOCOL}#{ANCHORS[self.section]}"


CASES: dict[str, Case] = {}
"""All cases by name, in the order in which they are told."""


def case(
    kind: Kind,
    section: str,
    *,
    seconds: float = 40.0,
    is_alone: bool = False,
    is_long: bool = False,
    **settings: object,
) -> Callable[[Run], Run]:
    """Declares a case: its name is the function's, what it is about its docstring.

    `is_alone`: it ends its worker, and gets one of its own; so does one with `settings`. `is_long`: it takes more than
    a few seconds. `seconds` is its limit.
    """

    def declare(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        about = " ".join((run.__doc__ or "").split())
        variables = {f"STEPWELL_{setting.upper()}": str(value) for setting, value in settings.items()}
        is_own = is_alone or bool(variables)
        CASES[name] = Case(name, about, kind, section, run, seconds, is_own, is_long, variables)
        return run

    return declare
