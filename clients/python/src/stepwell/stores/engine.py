"""What the services for engines do that none of the mirrored stores has a method for.

    async with WorkflowStore.connect("127.0.0.1:7233") as store:
        more = store.part(EngineStore)
        await more.renew_run_task("worker-1", workflow_id="order-17")

A run is named by its id, or by its workflow id.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from stepwell.stores._connection import Store, payload_of, span, stamp
from stepwell.v1 import dispatch_store_pb2 as dispatches
from stepwell.v1 import run_store_pb2 as runs
from stepwell.v1 import snapshot_store_pb2 as snapshots
from stepwell.v1 import step_store_pb2 as steps
from stepwell.v1.dispatch_store_pb2_grpc import DispatchStoreStub
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.snapshot_store_pb2_grpc import SnapshotStoreStub
from stepwell.v1.step_store_pb2_grpc import StepStoreStub

if TYPE_CHECKING:
    from stepwell.v1.dispatch_store_pb2 import Dispatch
    from stepwell.v1.snapshot_store_pb2 import Snapshot

_MOST = 256


class EngineStore(Store):
    """See the module. Times have a zone; `now` is the caller's time, by default the service's."""

    async def set_data(
        self,
        changes: Mapping[str, object],
        *,
        run_id: str = "",
        workflow_id: str = "",
        removed: Collection[str] = (),
        expected_version: int | None = None,
        token: int = 0,
    ) -> int:
        """Sets named data of a run to JSON values, and takes others away, all or none; gives the data's new version.

        `token` is the claim's, if it has a lease. Raises `RunNotFound`, `RunNotDriven`, `RunTerminal`, `LeaseLost`,
        `LimitExceeded`, and `RunDataChanged` if the data has another version than the expected one.
        """
        made = [runs.RunDataChange(name=name, set=payload_of(value)) for name, value in changes.items()]
        made += [runs.RunDataChange(name=name, remove=True) for name in removed]
        request = runs.SetRunDataRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            changes=made,
            expected_version=expected_version,
            token=token,
        )
        return (await self.call(RunStoreStub(self.channel).SetRunData, request)).data_version

    async def renew_run_task(self, worker_id: str, *, run_id: str = "", workflow_id: str = "") -> bool:
        """Notes that a worker is still at a run's task; `False` if it does not have it. Raises `RunNotFound`."""
        request = runs.RenewRunTaskRequest(
            namespace=self.namespace, run_id=run_id, workflow_id=workflow_id, worker_id=worker_id
        )
        return (await self.call(RunStoreStub(self.channel).RenewRunTask, request)).renewed

    async def rerun(
        self,
        *,
        run_id: str = "",
        workflow_id: str = "",
        new_run_id: str = "",
        new_workflow_id: str = "",
        correlation_id: str = "",
    ) -> str:
        """Creates a run as another one was, and gives its id. Its correlation id is by default that one's.

        Raises `RunNotFound`, `RunNotDriven`, `RunPurged`, `RunExists`, `WorkflowIdInUse`.
        """
        request = runs.RerunRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            new_run_id=new_run_id,
            new_workflow_id=new_workflow_id,
            correlation_id=correlation_id,
        )
        return (await self.call(RunStoreStub(self.channel).RerunRun, request)).run_id

    async def renew_step_claim(
        self,
        step_name: str,
        owner_id: str,
        claim_token: int,
        lease: dt.timedelta,
        *,
        run_id: str = "",
        workflow_id: str = "",
        now: dt.datetime | None = None,
    ) -> dt.datetime | None:
        """Prolongs the lease of a step's claim, and gives its new end; `None` if the claim is no more.

        Raises `RunNotFound`.
        """
        request = steps.RenewStepClaimRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            step_name=step_name,
            owner_id=owner_id,
            claim_token=claim_token,
            lease_duration=span(lease),
            now=stamp(now),
        )
        answer = await self.call(StepStoreStub(self.channel).RenewStepClaim, request)
        return answer.lease_expire_time.ToDatetime(dt.UTC) if answer.renewed else None

    async def take_unclaimed_dispatches(
        self, unclaimed_for: dt.timedelta, *, limit: int = _MOST, now: dt.datetime | None = None
    ) -> list[Dispatch]:
        """Takes dispatches that nobody claimed for longer than that, at most 256, oldest first.

        Each goes to one caller, and counts anew from then on.
        """
        request = dispatches.TakeUnclaimedDispatchesRequest(
            namespace=self.namespace, timeout=span(unclaimed_for), limit=limit, now=stamp(now)
        )
        return list((await self.call(DispatchStoreStub(self.channel).TakeUnclaimedDispatches, request)).dispatches)

    async def list_snapshots(self, *, run_id: str = "", workflow_id: str = "") -> list[Snapshot]:
        """A run's snapshots without their state, the greatest number first. An unknown run has none."""
        request = snapshots.ListSnapshotsRequest(namespace=self.namespace, run_id=run_id, workflow_id=workflow_id)
        return await self.every(SnapshotStoreStub(self.channel).ListSnapshots, request, "snapshots")
