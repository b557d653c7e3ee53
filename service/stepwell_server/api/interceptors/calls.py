"""Counts unary calls, notes which one is under way, and tells of the slow ones. It adds two functions to a call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stepwell_server.api.interceptors.around import MAKERS
from stepwell_server.api.interceptors.outcomes import outcome
from stepwell_server.telemetry.calls import Call, current, name_of, tallies
from stepwell_server.telemetry.slow_log import rounded, slow

if TYPE_CHECKING:
    from stepwell_server.api.interceptors.around import Behavior, Context, Handler


class Calls:
    """See the module. Around the one that answers what failed, so that it sees the final status."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler, counted; streams are told of by a gauge of their own."""
        if handler.request_streaming or handler.response_streaming or method.startswith("/grpc."):
            return handler
        kind, make = MAKERS[False, False]
        behavior: Behavior = getattr(handler, kind)
        name = name_of(method)
        tally = tallies.of(name)

        async def call(request: object, context: Context) -> object:
            began, code = time.monotonic(), "OK"
            noted = Call(name, context)
            # A call runs in a task of its own, whose context ends with it: nothing needs to be reset.
            current.set(noted)
            try:
                return await behavior(request, context)
            except BaseException:
                code = outcome(context)
                raise
            finally:
                took = time.monotonic() - began
                if noted.waits:
                    tally.count(code, None)
                else:
                    tally.count(code, took)
                    if took >= slow.seconds:
                        slow.tell("call", name, took, code=code, **rounded(**noted.parts or {}))

        return make(
            call, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )
