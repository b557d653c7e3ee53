"""Which repairs would make code and record agree, as far as both sides of a difference are known.

Both sides look alike when a call was renamed and when another took its place: a person decides. Nothing is proposed
where calls came in another order, since then no renaming is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stepwell_server.engine.repairs import RESERVED
from stepwell_server.model.run_calls import UPDATES

if TYPE_CHECKING:
    from stepwell_server.model.order import Difference, MadeCall, RecordedCall


class Fit(NamedTuple):
    """A repair: the recorded call bears another name, or (empty) is skipped."""

    call: RecordedCall
    new_name: str


def fitting(found: Difference) -> tuple[Fit, ...]:
    """The fewest renames and skips after which the calls that are known agree; none if there are no such."""
    if found.place is None or found.scope == UPDATES:
        return ()
    rest = found.recorded[found.place - found.first :]
    if not found.made:
        # The code ended the branch here: all that is left is too much, and all of it must be known.
        is_whole = found.first + len(found.recorded) == found.recorded_count
        return tuple(Fit(call, "") for call in rest) if is_whole else ()
    fits = _fewest(rest, found.made)
    return fits or ()


def _fewest(rest: tuple[RecordedCall, ...], made: tuple[MadeCall, ...]) -> tuple[Fit, ...] | None:
    """Goes over both sides; a call that is on both is neither renamed nor skipped."""
    recorded, code = {(call.kind, call.name) for call in rest}, {(call.kind, call.name) for call in made}
    # `best[j]`: for the calls of both sides from the present ones on; beyond one side's last nothing is to do.
    best: list[tuple[Fit, ...] | None] = [() for _ in range(len(made) + 1)]
    for call in reversed(rest):
        before = best
        best = [None] * len(made) + [()]
        own = (call.kind, call.name)
        for place, now in enumerate(made):
            ways: list[tuple[Fit, ...]] = []
            after = before[place + 1]
            if own == (now.kind, now.name):
                ways += [after] if after is not None else []
            elif own not in code:
                is_free = (now.kind, now.name) not in recorded and not RESERVED & {call.name, now.name}
                if after is not None and call.kind == now.kind and is_free:
                    ways.append((Fit(call, now.name), *after))
                # To skip all that is left would always do, and says nothing.
                skipping = before[place] if call is not rest[-1] else None
                if skipping is not None:
                    ways.append((Fit(call, ""), *skipping))
            best[place] = min(ways, key=len, default=None)
    return best[0]
