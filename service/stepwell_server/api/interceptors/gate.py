"""Whether calls are taken at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from stepwell_server import errors
from stepwell_server.api.interceptors.around import NOTHING, AroundCalls, Context


class Gate(AroundCalls):
    """Refuses calls while the server is not ready; health and reflection answer always."""

    def __init__(self, advice: Callable[[], str]) -> None:
        self._advice = advice
        self.is_open = False

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Lets one call pass."""
        if not self.is_open and not method.startswith("/grpc."):
            raise errors.ServerNotReady(advice=self._advice())
        return NOTHING
