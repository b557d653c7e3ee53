"""The inbox: what programs ask for by SQL functions in their own transactions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from stepwell._rpc import uuid7
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import inbox_pb2
from stepwell.v1.inbox_pb2_grpc import InboxServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller


class Inbox:
    """A namespace's inbox; `client.inbox`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str) -> None:
        """Made by the client."""
        self._stub = InboxServiceStub(channel)
        self._caller = caller
        self._namespace = namespace

    async def describe(self) -> inbox_pb2.GetInboxResponse:
        """Tells how much waits, and since when. Raises `NamespaceNotFound`."""
        request = inbox_pb2.GetInboxRequest(namespace=self._namespace)
        return await self._caller.call(self._stub.GetInbox, request)

    async def dead_letters(self) -> AsyncGenerator[inbox_pb2.DeadLetter, None]:
        """Lists what was asked for and refused, newest first, with the reasons. Raises `NamespaceNotFound`."""
        request = inbox_pb2.ListDeadLettersRequest(namespace=self._namespace, page_size=PAGE_SIZE)
        while True:
            page = await self._caller.call(self._stub.ListDeadLetters, request)
            for letter in page.dead_letters:
                yield letter
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def retry(self, number: int) -> bool:
        """Has a dead letter dealt with again. False if there is none of that number.

        It is dealt with before all that was asked for later; what is refused again is a dead letter again. Raises
        `NamespaceNotFound`.
        """
        request = inbox_pb2.RetryDeadLetterRequest(namespace=self._namespace, number=number, request_id=uuid7())
        return (await self._caller.call(self._stub.RetryDeadLetter, request)).retried

    async def discard(self, number: int) -> bool:
        """Forgets a dead letter. False if there is none of that number. Raises `NamespaceNotFound`."""
        request = inbox_pb2.DiscardDeadLetterRequest(namespace=self._namespace, number=number, request_id=uuid7())
        return (await self._caller.call(self._stub.DiscardDeadLetter, request)).discarded
