"""assay's store (Rust): `WorkflowStore`.

A workflow's id is the run's `workflow_id`, and never used again. What is JSON text there is `str` here, kept to the
letter.
"""

from stepwell.stores.assay.records import (
    ActivityStatus,
    ApiKeyRecord,
    NamespaceRecord,
    NamespaceStats,
    OverlapPolicy,
    QueueStats,
    SchedulePatch,
    WorkflowActivity,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowSchedule,
    WorkflowSignal,
    WorkflowSnapshot,
    WorkflowStatus,
    WorkflowTimer,
    WorkflowWorker,
)
from stepwell.stores.assay.store import WorkflowStore

__all__ = [
    "ActivityStatus",
    "ApiKeyRecord",
    "NamespaceRecord",
    "NamespaceStats",
    "OverlapPolicy",
    "QueueStats",
    "SchedulePatch",
    "WorkflowActivity",
    "WorkflowEvent",
    "WorkflowRecord",
    "WorkflowSchedule",
    "WorkflowSignal",
    "WorkflowSnapshot",
    "WorkflowStatus",
    "WorkflowStore",
    "WorkflowTimer",
    "WorkflowWorker",
]
