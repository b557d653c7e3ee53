"""What each RPC needs: the role that may call it, whether it writes, and where its request names a namespace.

One row for each method of each service, held against the descriptors by a test: an RPC without a row, a row without an
RPC, and a `namespace` in a request that its row does not name each fail the build.

To add one: READS for what only looks, WRITES for what programs change, OPERATES for what runs a namespace (settings,
how long things are kept, many runs at once, records that are changed by hand), WORKS for what a worker's stream and its
unary twins need, RULES for what is a matter of the whole deployment, ANYBODY for what callers ask about themselves.
A request that names namespaces deeper down than in its own field `namespace` says where:
`WRITES.at("namespace", "requests.namespace")`; one by which a worker takes tasks says where it names queues:
`WORKS.of("task_queue")`.
"""

from __future__ import annotations

from typing import NamedTuple

from stepwell_server.api.transactions import write_methods
from stepwell_server.model.api_keys import GRANTS, Role

NAMESPACE = "namespace"


class Access(NamedTuple):
    """What a call needs; `role` is None if any will do.

    Of a namespace that is left out within an item, the request's own one is meant. `queues` are the fields by which a
    worker says where it takes tasks from.
    """

    role: Role | None
    writes: bool
    namespaces: tuple[str, ...] = (NAMESPACE,)
    queues: tuple[str, ...] = ()

    def at(self, *namespaces: str) -> Access:
        """The same where the request names its namespaces otherwise; nowhere if none is given."""
        return self._replace(namespaces=namespaces)

    def of(self, *queues: str) -> Access:
        """The same where a worker's request names queues."""
        return self._replace(queues=queues)

    def allows(self, role: int) -> bool:
        """Whether a caller of that role may call. A newer replica may know roles that this one does not."""
        return role in GRANTS and (self.role is None or self.role in GRANTS[role])


READS = Access(Role.READER, writes=False)
WRITES = Access(Role.CLIENT, writes=True)
OPERATES = Access(Role.OPERATOR, writes=True)
WORKS = Access(Role.WORKER, writes=True)
RULES = Access(Role.ADMIN, writes=True)
LOOKS_AT_ALL = Access(Role.ADMIN, writes=False)
ANYBODY = Access(None, writes=False, namespaces=())

_STARTS = WRITES.at("namespace", "requests.namespace")
_CAPACITY_QUEUE = "capacity.capacities.task_queue"
_HELLO_QUEUES = ("hello.task_queues", f"hello.{_CAPACITY_QUEUE}")
_SCHEDULES = WRITES.at("namespace", "schedule.run.namespace")

TABLE: dict[str, dict[str, Access]] = {
    "ActivityStore": {
        "CreateActivity": WRITES,
        "GetActivity": READS,
        "ClaimActivity": WRITES,
        "RequeueActivityForRetry": WRITES,
        "CompleteActivity": WRITES,
        "HeartbeatActivity": WRITES,
        "ListTimedOutActivities": READS,
        "CancelPendingActivities": WRITES,
    },
    "ApiKeyService": {
        "CreateApiKey": RULES,
        "GetApiKey": LOOKS_AT_ALL.at(),
        "ListApiKeys": LOOKS_AT_ALL.at(),
        "RevokeApiKey": RULES.at(),
        "ImportApiKey": RULES.at(),
        "ValidateApiKey": LOOKS_AT_ALL.at(),
        "GetCaller": ANYBODY,
    },
    "BulkService": {
        "ApplyToRuns": OPERATES,
    },
    "ClockService": {
        "GetClock": READS.at(),
        "AdvanceClock": RULES.at(),
    },
    "DefinitionService": {
        "CreateDefinition": WRITES,
        "GetDefinition": READS,
        "ListDefinitions": READS,
        "ListDefinitionVersions": READS,
        "SearchDefinitions": READS,
        "UpdateDefinition": WRITES,
        "DeleteDefinition": WRITES,
        "ActivateDefinition": WRITES,
        "DeactivateDefinition": WRITES,
        "GetDefinitionCode": READS,
    },
    "DispatchStore": {
        "RecordDispatch": WRITES,
        "AnnotateDispatch": WRITES,
        "ReleaseDispatch": WRITES,
        "ListDispatchedSteps": READS,
        "TakeUnclaimedDispatches": WRITES,
    },
    "EventStore": {
        "AppendEvent": WRITES,
        "AppendEvents": WRITES,
        "GetEvent": READS,
        "DeleteEvents": WRITES,
        "ReadEvents": READS,
        "CountEvents": READS,
    },
    "ExplanationService": {
        "ExplainRun": READS,
        "ExplainJob": READS,
    },
    "HistoryService": {
        "ListEvents": READS,
    },
    "InboxService": {
        "GetInbox": READS,
        "ListDeadLetters": READS,
        "RetryDeadLetter": OPERATES,
        "DiscardDeadLetter": OPERATES,
    },
    "JobService": {
        "StartJob": WRITES,
        "BatchStartJobs": _STARTS,
        "GetJob": READS,
        "ListJobs": READS,
        "WaitJob": READS,
        "WatchJobs": READS,
        "CancelJob": WRITES,
        "RetryJob": WRITES,
    },
    "LeaderStore": {
        "AcquireLeadership": WRITES,
    },
    "NamespaceService": {
        "CreateNamespace": RULES,
        "UpdateNamespace": OPERATES,
        "GetNamespace": READS,
        "ListNamespaces": READS.at(),
        "DeleteNamespace": RULES,
        "GetNamespaceStats": READS,
    },
    "RetentionService": {
        "DeleteRun": OPERATES,
        "CleanUpRuns": OPERATES,
        "ListArchivableRuns": READS,
        "ArchiveRuns": OPERATES,
        "MarkRunArchived": OPERATES,
        "ExportRun": READS,
        "PruneEvents": OPERATES,
    },
    "RunControlStore": {
        "RegisterIdempotencyKey": WRITES,
        "GetRunByIdempotencyKey": READS,
        "ConfigureRun": WRITES,
        "GetRunControl": READS,
        "RequestRunCancel": WRITES,
        "MarkRunTimedOut": WRITES,
    },
    "RunService": {
        "StartRun": WRITES,
        "BatchStartRuns": _STARTS,
        "SignalWithStartRun": WRITES.at("namespace", "start.namespace"),
        "GetRun": READS,
        "ListRuns": READS,
        "WaitRun": READS,
        "WatchRuns": READS,
        "SignalRun": WRITES,
        "BatchSignalRuns": _STARTS,
        "QueryRun": READS,
        "UpdateRun": WRITES,
        "CancelRun": WRITES,
        "TerminateRun": WRITES,
        "PauseRun": WRITES,
        "ResumeRun": WRITES,
        "PinRun": OPERATES,
        "UpsertSearchAttributes": WRITES,
        "RetryRun": WRITES,
        "RewindRun": OPERATES,
        "RepairRun": OPERATES,
        "SettleRunStep": OPERATES,
        "ForkRun": WRITES,
        "ListRunSteps": READS,
    },
    "RunStore": {
        "CreateRun": WRITES,
        "ReadRun": READS,
        "ClaimRun": WRITES,
        "RenewRunLease": WRITES,
        "ReleaseRun": WRITES,
        "SetRunPhase": WRITES,
        "UpdateDrivenRun": WRITES,
        "SetRunData": WRITES,
        "GetRunData": READS,
        "MarkRunRunning": WRITES,
        "MarkRunCompleted": WRITES,
        "MarkRunFailed": WRITES,
        "ResumeRunWith": WRITES,
        "SuspendRun": WRITES,
        "CancelDrivenRun": WRITES,
        "RewindToStep": WRITES,
        "TakeDueRuns": WRITES,
        "ListRunnableRuns": READS,
        "ListDrivenRuns": READS,
        "ListChildRuns": READS,
        "GetRunDetail": READS,
        "ListDerivedRuns": READS,
        "RerunRun": WRITES,
        "MarkRunDispatchable": WRITES,
        "ClaimRunTask": WRITES,
        "ReleaseRunTask": WRITES,
        "RenewRunTask": WRITES,
        "ReleaseStaleRunTasks": WRITES,
    },
    "ScheduleService": {
        "CreateSchedule": _SCHEDULES,
        "GetSchedule": READS,
        "ListSchedules": READS,
        "UpdateSchedule": _SCHEDULES,
        "DeleteSchedule": WRITES,
        "PauseSchedule": WRITES,
        "ResumeSchedule": WRITES,
        "TriggerSchedule": WRITES,
        "BackfillSchedule": WRITES,
        "PreviewSchedule": READS,
        "RecordScheduleRun": WRITES,
    },
    "SignalStore": {
        "SendSignal": WRITES,
        "ConsumeSignals": WRITES,
        "RegisterSignalWaiter": WRITES,
        "DeliverSignal": WRITES,
        "GetSignalWaiter": READS,
        "RemoveSignalWaiter": WRITES,
    },
    "SnapshotStore": {
        "CreateSnapshot": WRITES,
        "GetSnapshot": READS,
        "ListSnapshots": READS,
    },
    "StatisticsService": {
        "CountRuns": READS,
        "GetRunStatistics": READS,
        "GetRunTimeseries": READS,
        "SearchRuns": READS,
        "GetStorageStats": READS,
    },
    "StepStore": {
        "BeginStep": WRITES,
        "ScheduleStep": WRITES,
        "CompleteStep": WRITES,
        "FailStep": WRITES,
        "GetStep": READS,
        "ListCompletedSteps": READS,
        "ListStepStates": READS,
        "ClaimStep": WRITES,
        "RenewStepClaim": WRITES,
        "ReleaseStepClaim": WRITES,
        "ListClaimedSteps": READS,
        "RecordStepStart": WRITES,
        "RecordStepComplete": WRITES,
        "RecordSkippedStep": WRITES,
        "RetryStep": WRITES,
        "SaveStep": WRITES,
        "ReadStep": READS,
        "ListSteps": READS,
    },
    "TaskQueueService": {
        "ListTaskQueues": READS,
        "GetTaskQueue": READS,
        "UpdateTaskQueue": OPERATES,
    },
    "TimerStore": {
        "CreateTimer": WRITES,
        "GetTimer": READS,
        "FireDueTimers": WRITES,
        "CancelPendingTimers": WRITES,
    },
    "TopicService": {
        "PublishEvent": WRITES,
        "ListTopicEvents": READS,
        "ListTopicWaits": READS,
    },
    "TopicStore": {
        "RegisterWatcher": WRITES,
        "SuspendOnTopic": WRITES,
        "ResolveWatchers": WRITES,
        "ListWatchers": READS,
        "ListRunsWaitingOn": READS,
    },
    "TransactionService": {
        # Each write may name the namespace of the whole, and no other.
        "Commit": WRITES.at("namespace", *(f"writes.{name}.namespace" for name in write_methods())),
    },
    "UserTaskService": {
        "CreateUserTask": WRITES,
        "GetUserTask": READS,
        "GetActiveUserTask": READS,
        "ListUserTasks": READS,
        "ListInbox": READS,
        "UpdateUserTask": WRITES,
        "ClaimUserTask": WRITES,
        "UnclaimUserTask": WRITES,
        "CompleteUserTask": WRITES,
        "CancelUserTask": WRITES,
        "CancelRunUserTasks": WRITES,
        "DeleteUserTask": WRITES,
    },
    "WorkerService": {
        "Connect": WORKS.at("hello.namespace").of(*_HELLO_QUEUES, _CAPACITY_QUEUE),
        "OpenSession": WORKS.at("hello.namespace").of(*_HELLO_QUEUES),
        "CloseSession": WORKS,
        "ClaimTasks": WORKS.of("task_queue"),
        "ReportTasks": WORKS,
        "HeartbeatTasks": WORKS,
        "ListTaskSteps": WORKS._replace(writes=False),
        "ListWorkers": READS,
    },
    "WorkerStore": {
        "RegisterWorker": WRITES,
        "HeartbeatWorker": WRITES,
        "ListRegisteredWorkers": READS,
        "RemoveDeadWorkers": WRITES,
    },
}


def access_of(method: str) -> Access | None:
    """The row of a method as gRPC names it, `/stepwell.v1.RunService/StartRun`; None if there is none."""
    service, _, name = method.removeprefix("/stepwell.v1.").partition("/")
    return TABLE.get(service, {}).get(name)
