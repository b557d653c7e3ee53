"""What a run's execution asks of the worker around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from stepwell.converter import DataConverter

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell.v1.workers_pb2 import Progress, Query


class RunHost(Protocol):
    """What an execution needs of its worker."""

    loop: asyncio.AbstractEventLoop
    converter: DataConverter

    def report(self, run: RunExecution, progress: Progress) -> None:
        """Sends a Progress; its answer comes by `RunExecution.answered`."""
        ...

    def answer(self, run: RunExecution, query: Query, outcome: dict[str, Any]) -> None:
        """Answers a query with a `result` or a `failure`."""
        ...

    def release(self, run: RunExecution, reason: str) -> None:
        """Gives the run back to its queue."""
        ...

    async def in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - any function
        """Calls a plain function in a thread."""
        ...
