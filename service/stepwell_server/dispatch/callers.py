"""Whose calls there are, and the streams that they hold open.

A caller is a key, a token or a certificate that holds: who proves to be the same by another token of the same subject
is the same caller.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from stepwell_server import errors
from stepwell_server.model.api_keys import Role, takes_queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server import refusals

_LAST_WORDS_SECONDS = 5.0


class Proof(StrEnum):
    """What a caller proved to be itself with."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 - a word, no password
    CERTIFICATE = "certificate"


class Caller(msgspec.Struct, kw_only=True):
    """Whose call it is. `namespace` and `task_queues` are the only ones that it may use, None if it may use all."""

    proof: Proof
    name: str
    """What people call it, and no secret: a key's prefix, a token's subject, a name of a certificate."""
    owner: str
    """Whom its sessions belong to: the same for each token of a subject, and of no two callers."""
    handle: str
    """Under which its streams are known: what it came with, hashed if it is secret."""
    role: int
    namespace: str | None
    task_queues: tuple[str, ...] | None = None
    expire_time: datetime | None = None
    """When its proof ends; None if never, or if nobody knows."""

    @property
    def uses_all_sessions(self) -> bool:
        """Whether it may use sessions that others have opened."""
        return self.role == Role.ADMIN

    def owns(self, owner: str | None, task_queues: Sequence[str]) -> bool:
        """Whether it may use a session: its own, or one that was opened where nobody was asked, with its queues."""
        if self.uses_all_sessions:
            return True
        return owner in (None, self.owner) and all(map(self.takes, task_queues))

    def takes(self, task_queue: str) -> bool:
        """Whether it may take tasks from a queue."""
        return self.task_queues is None or takes_queue(self.task_queues, task_queue)


class OpenStream:
    """A stream of a caller's, in the task that serves it. `refusal` is why it was ended.

    An interruption while a message is on its way (`is_sending`) would leave its reader without a word: it waits until
    that message is taken, though not for ever.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.refusal: refusals.Refusal | None = None
        self.is_sending = False
        self._task = asyncio.current_task()

    def end(self, refusal: refusals.Refusal) -> None:
        """Interrupts the task, once."""
        if self.refusal is not None or self._task is None:
            return
        self.refusal = refusal
        if self.is_sending:
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._cut)
        else:
            self._task.cancel()

    def _cut(self) -> None:
        if self.is_sending and self._task is not None:
            self._task.cancel()

    def was_ended(self) -> bool:
        """Whether the interruption that came is this one, and no other besides."""
        return self.refusal is not None and self._task is not None and self._task.uncancel() == 0


class OpenStreams:
    """The streams that are open, by the handles of their callers."""

    def __init__(self) -> None:
        self._streams: dict[str, set[OpenStream]] = {}

    def open(self, caller: Caller) -> OpenStream:
        """Notes a stream, in the task that serves it."""
        stream = OpenStream(caller)
        self._streams.setdefault(caller.handle, set()).add(stream)
        return stream

    def close(self, stream: OpenStream) -> None:
        """Forgets it."""
        handle = stream.caller.handle
        left = self._streams.get(handle, set())
        left.discard(stream)
        if not left:
            self._streams.pop(handle, None)

    def callers(self) -> list[Caller]:
        """Who has streams, each once."""
        return [next(iter(streams)).caller for streams in self._streams.values()]

    def end(self, handle: str, refusal: type[refusals.Refusal]) -> None:
        """Ends all streams of a caller."""
        for stream in list(self._streams.get(handle, ())):
            stream.end(refusal())

    def end_expired(self, now: datetime) -> None:
        """Ends the streams of tokens whose time is over. What becomes of keys, whoever looks at them finds out."""
        for caller in self.callers():
            if caller.proof is Proof.TOKEN and caller.expire_time is not None and caller.expire_time <= now:
                self.end(caller.handle, errors.TokenExpired)

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._streams.values()))
