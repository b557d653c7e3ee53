"""A call of another servicer as a part of a larger one: its command is taken from it, and its answer given to it.

So each write of a commit is read, decided and answered by what reads, decides and answers the single call.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from stepwell_server.engine.committer.orders import Birth
from stepwell_server.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from google.protobuf.message import Message

    from stepwell_server.engine.committer.orders import Single
    from stepwell_server.model.requests import Asked

Answer = TypeVar("Answer")


class Given(NamedTuple):
    """The command that a call gave, and what it is to be answered with."""

    order: Single
    kind: Any
    size: int


class Gathered:
    """Stands for one call where its servicer has the committers."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.given: asyncio.Future[Given] = loop.create_future()
        self.answer: asyncio.Future[Any] = loop.create_future()

    async def do(
        self, kind: type[Answer], order: Single, size: int = 0, seconds: float = 30.0, asked: Asked | None = None
    ) -> Answer:
        """As `Committers.do`: it is answered when all are."""
        del seconds
        # A start's own id is in its command: what it does there, it does here.
        if asked is not None and not isinstance(order, Birth):
            problem = "must be empty: the request_id of the whole request makes its repeat safe"
            raise InvalidField(field="request_id", problem=problem)
        self.given.set_result(Given(order, kind, size))
        answer: Answer = await self.answer
        return answer


class Part:
    """One call, begun. `earlier` are the requests of the calls before it."""

    def __init__(
        self, servicer: object, method: str, request: Message, context: object, earlier: Sequence[Message] = ()
    ) -> None:
        gathered = Gathered()
        own: Any = copy.copy(servicer)
        own._committers = gathered  # noqa: SLF001 - what a servicer asks for its answer
        own._earlier = earlier  # noqa: SLF001 - what will be there when it is decided
        call: Callable[[Message, object], Awaitable[Message]] = getattr(own, method)
        self._gathered = gathered
        self._task = asyncio.ensure_future(call(request, context))
        self._task.add_done_callback(self._ended)

    @property
    def given(self) -> asyncio.Future[Given]:
        """What it comes to: its command, or why it gives none."""
        return self._gathered.given

    async def answered(self, answer: object) -> Message:
        """Tells the call what came of its command, and gives its response."""
        self._gathered.answer.set_result(answer)
        return await self._task

    def leave(self) -> None:
        """Nobody wants its response any more."""
        self._task.cancel()

    def _ended(self, task: asyncio.Future[Message]) -> None:
        if self.given.done() or task.cancelled():
            self.given.cancel()
            return
        self.given.set_exception(task.exception() or TypeError("a call that is to be gathered gives a command"))
