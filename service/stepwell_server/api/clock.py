"""ClockService: moves a test clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell.v1 import clock_pb2, clock_pb2_grpc
from stepwell_server.api.fields import seconds
from stepwell_server.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server.clock import TestClock


class ClockCalls(clock_pb2_grpc.ClockServiceServicer):
    """Reads and moves the clock; `moved` is called after each move, to look at what has become due."""

    def __init__(self, clock: TestClock, moved: Callable[[], None]) -> None:
        self._clock = clock
        self._moved = moved

    async def GetClock(self, request: clock_pb2.GetClockRequest, context: object) -> clock_pb2.GetClockResponse:
        response = clock_pb2.GetClockResponse()
        response.time.FromDatetime(self._clock.now())
        return response

    async def AdvanceClock(
        self, request: clock_pb2.AdvanceClockRequest, context: object
    ) -> clock_pb2.AdvanceClockResponse:
        by = seconds(request, "by")
        if by is None:
            raise InvalidField(field="by", problem="is required: how far to move the clock")
        response = clock_pb2.AdvanceClockResponse()
        response.time.FromDatetime(self._clock.advance(timedelta(seconds=by)))
        self._moved()
        return response
