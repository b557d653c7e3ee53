"""assay's methods on archiving."""

from __future__ import annotations

from stepwell.stores._connection import Store, stamp
from stepwell.stores.assay.records import WorkflowRecord, workflow_record
from stepwell.v1 import retention_pb2 as retention
from stepwell.v1.retention_pb2_grpc import RetentionServiceStub

ANY = "-"


class Archives(Store):
    """What is archived."""

    async def list_archivable_workflows(self, cutoff: float, limit: int) -> list[WorkflowRecord]:
        """Workflows that ended before a time and are not archived, those that ended first going first."""
        request = retention.ListArchivableRunsRequest(namespace=self.namespace, cutoff=stamp(cutoff), payloads=True)
        stub = RetentionServiceStub(self.channel)
        found = await self.window(stub.ListArchivableRuns, request, "runs", limit=limit)
        return [workflow_record(run) for run in found]

    async def mark_archived_and_purge(self, workflow_id: str, archive_uri: str, archived_at: float) -> None:
        """Notes where a workflow was archived, and deletes its history. Its record stays, without payloads.

        Differs: one that has not ended is refused with `RunNotEnded`.
        """
        request = retention.MarkRunArchivedRequest(
            namespace=ANY, workflow_id=workflow_id, archive_uri=archive_uri, archive_time=stamp(archived_at)
        )
        await self.call(RetentionServiceStub(self.channel).MarkRunArchived, request)
