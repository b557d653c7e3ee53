"""How races stand in a run's record; docs/protocol.md."""

from __future__ import annotations

WINNER = "__race"
"""The name of the marker that says who won; its key is the number of the race's first branch."""
LOST = "__lost"
"""The name of the marker where a branch heard that it lost; its key is the path of the branch of the race it is in."""
