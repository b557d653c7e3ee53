"""Where the time of a batch goes: told of batches that are slow, and to the calls that waited for them."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING

from stepwell_server.engine.committer.orders import label_of
from stepwell_server.telemetry.slow_log import rounded, slow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.engine.committer.batch import Batch
    from stepwell_server.engine.committer.waiting import Entry

_SINCE = attrgetter("since")
_MOST_RUNS = 5


class Times:
    """When each part of a batch ended, by the steady clock; it begins when this is made."""

    __slots__ = ("began", "decided", "ended", "written")

    def __init__(self) -> None:
        self.began = self.decided = self.written = self.ended = time.monotonic()

    def end(self) -> float:
        """Notes the end of the transaction; answers how long it took, in seconds."""
        self.ended = time.monotonic()
        return self.ended - self.began

    def tell_if_slow(self, entries: Sequence[Entry], batch: Batch) -> None:
        """What is quick costs a comparison. To be called before those who wait for the answers go on."""
        oldest = min(map(_SINCE, entries))
        if self.ended - min(oldest, self.began) < slow.seconds:
            return
        loaded = min(self.decided if batch.load_time is None else batch.load_time, self.decided)
        parts = {
            "load_seconds": loaded - self.began,
            "decide_seconds": self.decided - loaded,
            "write_seconds": self.written - self.decided,
            "commit_seconds": self.ended - self.written,
        }
        for entry in entries:
            if entry.call is not None:
                entry.call.parts = {"queue_seconds": self.began - entry.since, **parts}
        if self.ended - self.began >= slow.seconds:
            self._tell(entries, oldest, parts)

    def _tell(self, entries: Sequence[Entry], oldest: float, parts: dict[str, float]) -> None:
        queued = max(0.0, self.began - oldest)
        slow.tell(
            "batch",
            "commit",
            self.ended - self.began,
            commands=len(entries),
            runs=list(filter(None, (label_of(entry.order) for entry in entries)))[:_MOST_RUNS],
            **rounded(queue_seconds=queued, **parts),
        )
