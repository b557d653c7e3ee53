"""The part of FlowOrchestrator's store that removes what ended long ago."""

from __future__ import annotations

import datetime as dt

from stepwell.stores._connection import Store, stamp
from stepwell.v1 import retention_pb2 as retention
from stepwell.v1.retention_pb2_grpc import RetentionServiceStub


class Retention(Store):
    """See the module."""

    async def CleanupAsync(self, cutoffUtc: dt.datetime) -> None:
        """Deletes the runs that were completed before a time, with all that is theirs.

        Differs: in bounded steps, not in one transaction; what was deleted before an error is gone. Dispatches and
        signal waiters go, too, which that store leaves behind.
        """
        request = retention.CleanUpRunsRequest(
            namespace=self.namespace, cutoff=stamp(cutoffUtc), filter="driven = true"
        )
        stub = RetentionServiceStub(self.channel)
        is_last = False
        while not is_last:
            request.page_token = (await self.call(stub.CleanUpRuns, request)).next_page_token
            is_last = not request.page_token
