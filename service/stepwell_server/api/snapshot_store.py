"""SnapshotStore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import snapshot_store_pb2, snapshot_store_pb2_grpc
from stepwell_server.api.fields import integer
from stepwell_server.api.page import InRun, read_page
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.store import snapshots

if TYPE_CHECKING:
    from uuid import UUID

    from stepwell_server.store.snapshots import SeenSnapshot

    Context = grpc.aio.ServicerContext[Any, Any]

_MOST_SEQ = 2**31 - 1


class SnapshotStoreCalls(StoreCalls, snapshot_store_pb2_grpc.SnapshotStoreServicer):
    """Keeps and reads snapshots."""

    async def CreateSnapshot(
        self, request: snapshot_store_pb2.CreateSnapshotRequest, context: Context
    ) -> snapshot_store_pb2.CreateSnapshotResponse:
        event_seq = integer(request.event_seq, "event_seq", at_most=_MOST_SEQ)
        state = payload_from_proto(request.state, self._fields, "state")
        ref, now = await self._refs.read(request), self._clock.now()
        created = await snapshots.create(self._database, ref, event_seq, state, now)
        return snapshot_store_pb2.CreateSnapshotResponse(created=created, create_time=time_to_proto(now))

    async def GetSnapshot(
        self, request: snapshot_store_pb2.GetSnapshotRequest, context: Context
    ) -> snapshot_store_pb2.GetSnapshotResponse:
        asked = request.HasField("event_seq")
        event_seq = integer(request.event_seq, "event_seq", at_most=_MOST_SEQ) if asked else None
        run = await self._seek(request)
        found = await snapshots.read(self._database, run.run_key, event_seq) if run is not None else None
        if run is None or found is None:
            return snapshot_store_pb2.GetSnapshotResponse(found=False)
        return snapshot_store_pb2.GetSnapshotResponse(found=True, snapshot=snapshot_to_proto(run.run_id, found))

    async def ListSnapshots(
        self, request: snapshot_store_pb2.ListSnapshotsRequest, context: Context
    ) -> snapshot_store_pb2.ListSnapshotsResponse:
        page, run = read_page(request, InRun, self._fields.limits), await self._seek(request)
        if run is None:
            return snapshot_store_pb2.ListSnapshotsResponse()
        found = await snapshots.page(self._database, run.run_key, page.after, page.fetch)
        shown = found[: page.size]
        token = page.token(shown[-1].event_seq) if len(found) > page.size else ""
        return snapshot_store_pb2.ListSnapshotsResponse(
            snapshots=[snapshot_to_proto(run.run_id, each) for each in shown], next_page_token=token
        )


def snapshot_to_proto(run_id: UUID, snapshot: SeenSnapshot) -> snapshot_store_pb2.Snapshot:
    """Renders a snapshot, with its state if that is at hand."""
    return snapshot_store_pb2.Snapshot(
        run_id=str(run_id),
        event_seq=snapshot.event_seq,
        state=payload_to_proto(snapshot.state),
        size_bytes=snapshot.size,
        create_time=time_to_proto(snapshot.create_time),
    )
