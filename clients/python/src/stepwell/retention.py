"""Retention: how runs go that have ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from stepwell._rpc import uuid7
from stepwell.v1 import retention_pb2
from stepwell.v1.retention_pb2_grpc import RetentionServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller


class Retention:
    """What removes a client's runs; `client.retention`. Open runs are never touched, unless `force` ends one first."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str) -> None:
        """Made by the client."""
        self._stub = RetentionServiceStub(channel)
        self._caller = caller
        self._namespace = namespace

    async def delete(self, run_id: str = "", *, workflow_id: str = "", force: bool = False) -> bool:
        """Deletes a run that has ended, with all that is its own. False if there was none.

        With `force` (default: not) an open run is terminated first. Raises `RunNotEnded`, `RunBusy`, `InvalidField`.
        """
        request = retention_pb2.DeleteRunRequest(
            namespace=self._namespace, run_id=run_id, workflow_id=workflow_id, force=force, request_id=uuid7()
        )
        return (await self._caller.call(self._stub.DeleteRun, request)).deleted

    async def clean_up(
        self,
        ended_before: datetime,
        *,
        filter: str = "",  # noqa: A002 - the protocol's word
        dry_run: bool = False,
    ) -> AsyncGenerator[int, None]:
        """Deletes runs that ended before a time (with its zone), a part at a time, and gives how many went with each.

        `filter` is as in `list_runs` (default: all); with `dry_run` nothing goes, and the counts are what would. Raises
        `InvalidField`, `NamespaceNotFound`.
        """
        request = retention_pb2.CleanUpRunsRequest(
            namespace=self._namespace, cutoff=stamp(ended_before), filter=filter, dry_run=dry_run
        )
        while True:
            part = await self._caller.call(self._stub.CleanUpRuns, request)
            yield part.count
            if not part.next_page_token:
                return
            request.page_token = part.next_page_token


def stamp(time: datetime) -> Timestamp:
    """Gives a time as the protocol has it. Raises `ValueError` if it has no zone."""
    if time.tzinfo is None:
        raise ValueError("the time needs a zone, such as datetime.now(UTC)")
    made = Timestamp()
    made.FromDatetime(time)
    return made
