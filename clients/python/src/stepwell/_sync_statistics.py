"""Numbers about runs for programs without asyncio: those of `stepwell.statistics`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.statistics import Grouping, Statistics
    from stepwell.sync import Loop
    from stepwell.v1 import runs_pb2, statistics_pb2


class SyncStatistics:
    """A client's numbers; `client.statistics`."""

    def __init__(self, loop: Loop, inner: Statistics) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def count(
        self,
        by: Grouping = "phase",
        *,
        filter: str = "",  # noqa: A002
    ) -> statistics_pb2.CountRunsResponse:
        """Counts runs that fit, by a field, the largest group first."""
        return self._loop.call(self._inner.count(by, filter=filter))

    def today(self) -> statistics_pb2.GetRunStatisticsResponse:
        """Tells how many runs are open, and what ended since midnight UTC."""
        return self._loop.call(self._inner.today())

    def series(
        self,
        start: dt.datetime,
        end: dt.datetime,
        *,
        by: Literal["hour", "day"] = "hour",
        type: str = "",  # noqa: A002
        filter: str = "",  # noqa: A002
    ) -> statistics_pb2.GetRunTimeseriesResponse:
        """Gives runs by the hour or day (UTC) that they were started in, with how long they took."""
        return self._loop.call(self._inner.series(start, end, by=by, type=type, filter=filter))

    def search(
        self,
        text: str,
        *,
        limit: int | None = None,
        type: str = "",  # noqa: A002
        filter: str = "",  # noqa: A002
    ) -> Iterator[runs_pb2.Run]:
        """Finds runs that hold a text, newest first."""
        return self._loop.iterate(self._inner.search(text, limit=limit, type=type, filter=filter))

    def storage(self) -> statistics_pb2.GetStorageStatsResponse:
        """Tells what the namespace holds, counted, and what the whole database holds, estimated."""
        return self._loop.call(self._inner.storage())
