"""FlowOrchestrator's stores (C#): `FlowRunStore` and `FlowSignalStore`.

The first answers the four interfaces of `PostgreSqlFlowRunStore`, the other is its sister, `IFlowSignalStore`.

Ids are the texts of UUIDs. A flow's id is the `type` of its runs, its name their title, a Hangfire job's id their
correlation id, the trigger's data their input. Statuses are written in the store's own words and read in any case.
What a later worker writes over a step or a run that has ended is refused: `StepStateConflict`, `RunTerminal`.

`terminal_status` is the store's rule of how a run ended that has nothing left to do.
"""

from stepwell.stores.flow_orchestrator.records import (
    PREREQUISITES_UNMET,
    FlowRunControlRecord,
    FlowRunRecord,
    FlowStepAttemptRecord,
    FlowStepRecord,
    RunStatus,
    StepStatus,
)
from stepwell.stores.flow_orchestrator.signals import (
    FlowSignalStore,
    FlowSignalWaiter,
    SignalDeliveryResult,
    SignalDeliveryStatus,
)
from stepwell.stores.flow_orchestrator.statistics import (
    DashboardStatistics,
    RunTimeseriesBucket,
    RunTimeseriesGranularity,
)
from stepwell.stores.flow_orchestrator.store import FlowRunStore
from stepwell.stores.flow_orchestrator.terminal import terminal_status

__all__ = [
    "PREREQUISITES_UNMET",
    "DashboardStatistics",
    "FlowRunControlRecord",
    "FlowRunRecord",
    "FlowRunStore",
    "FlowSignalStore",
    "FlowSignalWaiter",
    "FlowStepAttemptRecord",
    "FlowStepRecord",
    "RunStatus",
    "RunTimeseriesBucket",
    "RunTimeseriesGranularity",
    "SignalDeliveryResult",
    "SignalDeliveryStatus",
    "StepStatus",
    "terminal_status",
]
