"""Retention: how runs go that have ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import grpc.aio

from stepwell import reasons
from stepwell._rpc import uuid7
from stepwell.policies import timestamp
from stepwell.v1 import retention_pb2
from stepwell.v1.retention_pb2_grpc import RetentionServiceStub

if TYPE_CHECKING:
    from stepwell._rpc import Caller
    from stepwell.v1.runs_pb2 import Run


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
            namespace=self._namespace, cutoff=timestamp(ended_before), filter=filter, dry_run=dry_run
        )
        while True:
            part = await self._caller.call(self._stub.CleanUpRuns, request)
            yield part.count
            if not part.next_page_token:
                return
            request.page_token = part.next_page_token

    async def archivable(
        self,
        ended_before: datetime,
        *,
        filter: str = "",  # noqa: A002 - the protocol's word
    ) -> AsyncGenerator[Run, None]:
        """Lists runs that ended before a time and were not archived, those that ended first going first.

        `filter` is as in `list_runs` (default: all). Raises `InvalidField`, `NamespaceNotFound`.
        """
        request = retention_pb2.ListArchivableRunsRequest(
            namespace=self._namespace, cutoff=timestamp(ended_before), filter=filter
        )
        while True:
            page = await self._caller.call(self._stub.ListArchivableRuns, request)
            for run in page.runs:
                yield run
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def archive(
        self,
        ended_before: datetime,
        *,
        filter: str = "",  # noqa: A002 - the protocol's word
        dry_run: bool = False,
    ) -> AsyncGenerator[int, None]:
        """Archives runs that ended before a time, a part at a time, and gives how many were with each.

        Each is written to the namespace's `archive_url`, and then its history is deleted. `filter` is as in `list_runs`
        (default: all); with `dry_run` nothing is written. Raises `ArchiveNotSet`, `ArchiveUnavailable`, `InvalidField`.
        """
        request = retention_pb2.ArchiveRunsRequest(
            namespace=self._namespace, cutoff=timestamp(ended_before), filter=filter, dry_run=dry_run
        )
        while True:
            part = await self._caller.call(self._stub.ArchiveRuns, request)
            yield part.count
            if not part.next_page_token:
                return
            request.page_token = part.next_page_token

    async def mark_archived(
        self, run_id: str = "", *, workflow_id: str = "", archive_uri: str, archive_time: datetime | None = None
    ) -> bool:
        """Notes where a run that has ended was archived, and deletes its history. False if there is no such run.

        `archive_time` is now unless given. Raises `RunNotEnded`, `RunBusy`, `InvalidField`.
        """
        request = retention_pb2.MarkRunArchivedRequest(
            namespace=self._namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            archive_uri=archive_uri,
            archive_time=timestamp(archive_time),
            request_id=uuid7(),
        )
        return (await self._caller.call(self._stub.MarkRunArchived, request)).archived

    async def prune_events(
        self, older_than: datetime, *, of: Literal["callers", "ended_runs"]
    ) -> AsyncGenerator[int, None]:
        """Deletes events that are older than a time, a part at a time, and gives how many went with each.

        Of `callers`: what programs appended to runs. Of `ended_runs`: the histories of runs that ended before it, which
        can't be opened again. Raises `InvalidField`, `NamespaceNotFound`.
        """
        scopes = retention_pb2.PruneEventsRequest
        scope = scopes.SCOPE_CALLERS if of == "callers" else scopes.SCOPE_ENDED_RUNS
        request = retention_pb2.PruneEventsRequest(namespace=self._namespace, cutoff=timestamp(older_than), scope=scope)
        while True:
            part = await self._caller.call(self._stub.PruneEvents, request)
            yield part.count
            if not part.next_page_token:
                return
            request.page_token = part.next_page_token

    async def export(self, run_id: str = "", *, workflow_id: str = "") -> AsyncGenerator[bytes, None]:
        """Gives a run as the JSON document that an archive holds, in parts to be put one behind the other.

        Raises `RunNotFound`. What breaks off in the middle is not taken up: begin again.
        """
        request = retention_pb2.ExportRunRequest(namespace=self._namespace, run_id=run_id, workflow_id=workflow_id)
        try:
            async for part in self._stub.ExportRun(request, metadata=self._caller.metadata):
                yield part.data
        except grpc.RpcError as error:
            raise reasons.from_rpc(error) from None
