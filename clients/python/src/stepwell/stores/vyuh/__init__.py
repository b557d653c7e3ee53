"""Vyuh's `WorkflowStorage`, over Stepwell's public API.

from stepwell.stores.vyuh import WorkflowStorage

async with WorkflowStorage.connect("127.0.0.1:7233") as storage:
    await storage.workflows.create(workflow)
"""

from stepwell.stores.vyuh.events import WorkflowEvent, WorkflowEventQuery, WorkflowEventRepository
from stepwell.stores.vyuh.instance_records import WorkflowError, WorkflowInstance, WorkflowStatus, WorkflowToken
from stepwell.stores.vyuh.instances import WorkflowInstanceQuery, WorkflowInstanceRepository
from stepwell.stores.vyuh.storage import StorageStats, WorkflowStorage
from stepwell.stores.vyuh.user_task_instances import (
    TaskStatus,
    UserTaskInstance,
    UserTaskInstanceRepository,
    UserTaskPriority,
)
from stepwell.stores.vyuh.workflows import RawWorkflow, WorkflowRepository

__all__ = [
    "RawWorkflow",
    "StorageStats",
    "TaskStatus",
    "UserTaskInstance",
    "UserTaskInstanceRepository",
    "UserTaskPriority",
    "WorkflowError",
    "WorkflowEvent",
    "WorkflowEventQuery",
    "WorkflowEventRepository",
    "WorkflowInstance",
    "WorkflowInstanceQuery",
    "WorkflowInstanceRepository",
    "WorkflowRepository",
    "WorkflowStatus",
    "WorkflowStorage",
    "WorkflowToken",
]
