"""FlowOrchestrator's stores (C#): `FlowRunStore`, which answers the four interfaces of `PostgreSqlFlowRunStore`.

Ids are the texts of UUIDs. A flow's id is the `type` of its runs, its name their title, a Hangfire job's id their
correlation id, the trigger's data their input. Statuses are written in the store's own words and read in any case.
What a later worker writes over a step or a run that has ended is refused: `StepStateConflict`, `RunTerminal`.
"""

from stepwell.stores.flow_orchestrator.records import FlowRunControlRecord, FlowRunRecord, RunStatus
from stepwell.stores.flow_orchestrator.store import FlowRunStore

__all__ = ["FlowRunControlRecord", "FlowRunRecord", "FlowRunStore", "RunStatus"]
