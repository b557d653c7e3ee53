"""Client and worker for Stepwell, the durable-workflow service."""

from stepwell._calls import RaceLost, RunCancelled
from stepwell._races import Winner
from stepwell.activities import ActivityCancelled, ActivityInfo, activity
from stepwell.client import Client
from stepwell.commits import Commit
from stepwell.context import Context, RunInfo
from stepwell.converter import Codec, DataConverter, JsonConverter
from stepwell.errors import (
    ActivityFailed,
    ApplicationError,
    CertificateError,
    ChildFailed,
    ConversionError,
    JobFailed,
    RunFailed,
    ServiceError,
    StepError,
    StepFailed,
    StepwellError,
    UpdateFailed,
    UpdateRejected,
    UserTaskCancelled,
    WaitTimeout,
)
from stepwell.jobs import JobHandle
from stepwell.policies import CancellationPolicy, Concurrency, Debounce, RetryPolicy
from stepwell.repairs import Rename, Skip
from stepwell.runs import QueryAnswer, RunHandle
from stepwell.task_queues import RateLimit
from stepwell.tls import Tls
from stepwell.worker import Worker
from stepwell.workflows import workflow

__all__ = [
    "ActivityCancelled",
    "ActivityFailed",
    "ActivityInfo",
    "ApplicationError",
    "CancellationPolicy",
    "CertificateError",
    "ChildFailed",
    "Client",
    "Codec",
    "Commit",
    "Concurrency",
    "Context",
    "ConversionError",
    "DataConverter",
    "Debounce",
    "JobFailed",
    "JobHandle",
    "JsonConverter",
    "QueryAnswer",
    "RaceLost",
    "RateLimit",
    "Rename",
    "RetryPolicy",
    "RunCancelled",
    "RunFailed",
    "RunHandle",
    "RunInfo",
    "ServiceError",
    "Skip",
    "StepError",
    "StepFailed",
    "StepwellError",
    "Tls",
    "UpdateFailed",
    "UpdateRejected",
    "UserTaskCancelled",
    "WaitTimeout",
    "Winner",
    "Worker",
    "activity",
    "workflow",
]
