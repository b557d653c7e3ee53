"""The steps of races, from the protocol's words: who won, and where losers heard so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stepwell_server.api import fields as checks
from stepwell_server.engine.races import is_within
from stepwell_server.engine.reported import Body, WonRace
from stepwell_server.errors import InvalidField
from stepwell_server.model.races import LOST, WINNER
from stepwell_server.model.steps import Kind

if TYPE_CHECKING:
    from stepwell.v1 import workers_pb2

_NUMBER = re.compile(r"[1-9]\d{0,5}")
_MOST_BRANCHES = 999_999


def winner_from_proto(race: workers_pb2.RaceStep, at: str) -> WonRace:
    """Who won a race."""
    return WonRace(checks.integer(race.winner, "winner", f"{at}race.", at_least=1, at_most=_MOST_BRANCHES))


def require_race_key(body: Body, kind: Kind, named: tuple[str, str, int, str], at: str) -> None:
    """A winner is named by its race's first branch, a loss by the branch that lost; others may not look like them."""
    scope, name, occurrence, key = named
    if isinstance(body, WonRace):
        if name != WINNER or occurrence or not _NUMBER.fullmatch(key) or int(key) > body.winner:
            problem = f"must be the number of the race's first branch, at most the winner's, and the name {WINNER!r}"
            raise InvalidField(field=f"{at}key", problem=problem)
    elif kind == Kind.MARKER and name == WINNER:
        raise InvalidField(field=f"{at}name", problem=f"{WINNER!r} is for who won a race: say so in `race`")
    elif kind == Kind.MARKER and name == LOST and (occurrence or not key or not is_within(scope, key)):
        raise InvalidField(
            field=f"{at}key", problem="must be the path of the branch that lost: this one or one around it"
        )
