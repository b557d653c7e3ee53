"""stem's store (Dart): `PostgresWorkflowStore`.

A run's id is the caller's text, or one that is made here: it is the run's `workflow_id`, and never used again.
"""

from stepwell.stores.stem.records import (
    RunState,
    WorkflowCancellationPolicy,
    WorkflowRuntimeMetadata,
    WorkflowStatus,
    WorkflowStepEntry,
    WorkflowWatcher,
    WorkflowWatcherResolution,
)
from stepwell.stores.stem.store import PostgresWorkflowStore

__all__ = [
    "PostgresWorkflowStore",
    "RunState",
    "WorkflowCancellationPolicy",
    "WorkflowRuntimeMetadata",
    "WorkflowStatus",
    "WorkflowStepEntry",
    "WorkflowWatcher",
    "WorkflowWatcherResolution",
]
