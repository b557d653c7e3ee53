"""Debounced starts: a run that waits until no start of its key comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server.model.debounces import RunDebounce
from stepwell_server.model.runs import pack_details, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.model.debounces import Debounce
    from stepwell_server.model.driven import SideKey

_ROW: SideKey = (RunDebounce, 0)


def wait(change: Change, debounce: Debounce) -> None:
    """A new run is the one that starts of its key push on."""
    run = change.open
    change.put_side(_ROW, RunDebounce(run.run_key, run.namespace_id, run.type, debounce.key))


def settle(change: Change) -> None:
    """The run begins, or ends: no start pushes it on any more."""
    details = unpack_details(change.open.details)
    if details.debounce is not None:
        change.put_side(_ROW, None)
        change.update(details=pack_details(replace(details, debounce=None)))
