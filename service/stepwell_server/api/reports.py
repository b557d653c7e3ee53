"""What workers report, from the protocol's words to commands."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from stepwell.v1 import types_pb2, workers_pb2
from stepwell_server import telemetry
from stepwell_server.api import fields as checks
from stepwell_server.api.activity_options import (
    priority_from_proto,
    retry_from_proto,
    run_retry_from_proto,
    timeouts_from_proto,
)
from stepwell_server.api.concurrency_values import concurrency_from_proto
from stepwell_server.api.differences import difference_from_proto
from stepwell_server.api.payloads import failure_from_proto, payload_from_proto, storable
from stepwell_server.api.race_steps import require_race_key, winner_from_proto
from stepwell_server.api.run_starts import policies_from_proto
from stepwell_server.api.search_attributes import attributes_from_proto
from stepwell_server.api.task_refs import results_from_proto, task_key
from stepwell_server.api.user_task_values import step_from_proto
from stepwell_server.dispatch.beats import TaskBeat
from stepwell_server.dispatch.sessions import Room, Slot, TaskKey
from stepwell_server.engine.activities import CancelledActivity, CompleteActivity, FailActivity, NewActivity
from stepwell_server.engine.grants import ReturnTask, ref_to
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import (
    AcceptedUpdate,
    Body,
    Checkpoint,
    End,
    NewChild,
    NewStep,
    NewTimer,
    NewTopicWait,
    NewWait,
    ScopeClaim,
    SetAttributes,
    Successor,
    UpdateOutcome,
)
from stepwell_server.engine.starts import Conflict
from stepwell_server.errors import InvalidField
from stepwell_server.ids import ORDINALS
from stepwell_server.model.jobs import JobRef
from stepwell_server.model.payloads import NULL
from stepwell_server.model.run_calls import UPDATES, CallAnswer, Rejection, acceptance_of, outcome_of
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.steps import Kind
from stepwell_server.model.workers import Hello

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from stepwell_server.api.fields import Fields, Item
    from stepwell_server.model.payloads import Payload

Report = ProgressRun | CompleteActivity | FailActivity | CancelledActivity | ReturnTask
_SCOPE = re.compile(r"(0/)?[1-9]\d{0,5}(/[1-9]\d{0,5}){0,7}")
_DEEPEST = 8
_HASH_BYTES = 8
FINGERPRINT_BYTES = 32
_MOST_BUILDS = 16
_MOST_OUTSTANDING, _MOST_RESIDENT = 10_000, 100_000
_MOST_PLACE = 2**31 - 1
_PUBLISHED_BYTES = 64 * 1024
_SHOWN = 64


def hello_from_proto(hello: workers_pb2.Hello, fields: Fields) -> Hello:
    """Who a worker says it is."""
    compatible = fields.names(hello.compatible_build_ids, "compatible_build_ids", "hello.")
    if len(compatible) > _MOST_BUILDS:
        problem = f"has {len(compatible)} items: name at most {_MOST_BUILDS} builds"
        raise InvalidField(field="hello.compatible_build_ids", problem=problem)
    return Hello(
        worker_id=fields.name(hello.worker_id, "worker_id", "hello."),
        task_queues=fields.names(hello.task_queues, "task_queues", "hello.", at_least=1),
        workflow_types=fields.names(hello.workflow_types, "workflow_types", "hello."),
        activity_types=fields.names(hello.activity_types, "activity_types", "hello."),
        build_id=fields.text(hello.build_id, "build_id", "hello."),
        identity=fields.text(hello.identity, "identity", "hello."),
        sdk=fields.text(hello.sdk, "sdk", "hello."),
        compatible_build_ids=compatible,
    )


def rooms_from_proto(update: workers_pb2.CapacityUpdate, fields: Fields, at: str) -> dict[Slot, Room]:
    """A worker's capacity."""
    rooms: dict[Slot, Room] = {}
    for place, each in enumerate(fields.items(update.capacities, "capacities", at)):
        here = f"{at}capacities[{place}]."
        kind = fields.member(each.kind, workers_pb2.TaskKind, "kind", here, required=True)
        queue = fields.text(each.task_queue, "task_queue", here)
        most = checks.integer(each.max_outstanding, "max_outstanding", here, at_most=_MOST_OUTSTANDING)
        resident = checks.integer(each.max_resident, "max_resident", here, at_most=_MOST_RESIDENT)
        rooms[kind, queue] = Room(most, resident)
    return rooms


class BeatReader:
    """Reads the heartbeats of one session."""

    def __init__(self, session_id: UUID, namespace_id: int, worker_id: str, fields: Fields) -> None:
        self._session_id = session_id
        self._namespace_id = namespace_id
        self._worker_id = worker_id
        self._fields = fields

    def read(self, beats: Sequence[workers_pb2.TaskHeartbeat]) -> list[TaskBeat]:
        """The heartbeats of one message."""
        received_ns, items = time.time_ns(), self._fields.items(beats, "heartbeats")
        return [self._beat(beat, f"heartbeats[{place}].", received_ns) for place, beat in enumerate(items)]

    def _beat(self, beat: workers_pb2.TaskHeartbeat, at: str, received_ns: int) -> TaskBeat:
        run_key, ordinal = task_key(beat.ref, f"{at}ref.")
        details = payload_from_proto(beat.details, self._fields, "details", at) if beat.HasField("details") else None
        return TaskBeat(
            run_key,
            ordinal,
            beat.ref.token,
            self._session_id,
            details,
            self._namespace_id,
            self._worker_id,
            telemetry.valid_traceparent(beat.traceparent),
            received_ns,
        )


def answer_from_proto(answer: workers_pb2.QueryAnswer, fields: Fields, at: str) -> CallAnswer:
    """What a worker says to a query."""
    if answer.HasField("failure"):
        return CallAnswer(failure=failure_from_proto(answer.failure, fields, "failure", at))
    return CallAnswer(payload_from_proto(answer.result, fields, "result", at))


class ReportReader:
    """Reads the reports of one session."""

    def __init__(self, namespace_id: int, namespace: str, session_id: UUID, build_id: str, fields: Fields) -> None:
        self._namespace_id = namespace_id
        self._namespace = namespace
        self._session_id = session_id
        self._build_id = build_id
        self._fields = fields

    def read(self, report: workers_pb2.Report, key: TaskKey, at: str, *, resident: bool) -> Report:
        """A report about a task as a command. `resident`: the worker may keep the run while it waits."""
        run_key, ordinal = key
        ref = ref_to(run_key, ordinal, self._namespace_id, self._namespace)
        token, session_id = report.ref.token, self._session_id
        outcome = report.WhichOneof("outcome")
        if outcome == "release":
            # Cut, never refused: a worker must be able to give back what it can't bring to an end.
            reason = storable(report.release.reason, checks.REMARK_BYTES) or "released"
            return ReturnTask(ref, ordinal, token, session_id, counts=False, reason=reason)
        if outcome == "progress":
            if ordinal or isinstance(ref, JobRef):
                raise InvalidField(field=f"{at}progress", problem="is for runs: this task is an activity")
            return self._progress(report.progress, ref, token, f"{at}progress.", resident=resident)
        if not ordinal and outcome is not None:
            raise InvalidField(field=at + outcome, problem="is for activities: this task is a run")
        if outcome == "complete":
            payload = payload_from_proto(report.complete.result, self._fields, "complete.result", at)
            return CompleteActivity(ref, ordinal, session_id, token, payload)
        if outcome == "fail":
            failure = failure_from_proto(report.fail.failure, self._fields, "fail.failure", at)
            return FailActivity(ref, ordinal, session_id, token, failure)
        if outcome == "cancelled":
            payload = payload_from_proto(report.cancelled.details, self._fields, "cancelled.details", at)
            return CancelledActivity(ref, ordinal, session_id, token, payload)
        raise InvalidField(field=f"{at}outcome", problem="is required: progress, complete, fail, cancelled or release")

    def return_of(self, key: TaskKey, token: int) -> ReturnTask:
        """Takes back a task whose report was refused."""
        ref = ref_to(*key, self._namespace_id, self._namespace)
        return ReturnTask(ref, key[1], token, self._session_id, counts=False, reason="report refused")

    def _progress(
        self, progress: workers_pb2.Progress, ref: RunRef, token: int, at: str, *, resident: bool
    ) -> ProgressRun:
        steps = self._fields.items(progress.steps, "steps", at)
        scopes = self._few(progress.scopes, "scopes", at)
        return ProgressRun(
            ref=ref,
            session_id=self._session_id,
            token=token,
            scopes=[self._scope(each, f"{at}scopes[{place}].") for place, each in enumerate(scopes)],
            steps=[self._step(each, f"{at}steps[{place}].") for place, each in enumerate(steps)],
            # What is seldom there is looked for first: to read an empty list costs several times as much.
            cancels=self._ordinals(each, "cancel_ordinals", at) if (each := progress.cancel_ordinals) else [],
            stops=self._ordinals(each, "stop_ordinals", at) if (each := progress.stop_ordinals) else [],
            waiting=progress.waiting,
            end=self._end(progress, at),
            resident=resident,
            calls=self._calls(progress, at),
            build_id=self._build_id,
            published=self._published(progress, at) if progress.published else {},
            ahead_of=results_from_proto(progress, ref, self._fields, at) if progress.ahead_of else [],
            rejections=self._rejections(progress, at) if progress.rejections else [],
        )

    def _calls(self, progress: workers_pb2.Progress, at: str) -> int | None:
        return checks.integer(progress.calls, "calls", at, at_most=ORDINALS) if progress.HasField("calls") else None

    def _few(self, values: Sequence[Item], field: str, at: str) -> Sequence[Item]:
        """No more than a run may have open steps."""
        count, at_most = len(values), self._fields.limits.open_steps
        if count > at_most:
            raise InvalidField(field=at + field, problem=f"holds {count} items: give it at most {at_most}")
        return values

    def _ordinals(self, ordinals: Sequence[int], field: str, at: str) -> list[int]:
        return [
            checks.integer(each, f"{field}[{place}]", at, at_least=1, at_most=ORDINALS - 1)
            for place, each in enumerate(self._few(ordinals, field, at))
        ]

    def _published(self, progress: workers_pb2.Progress, at: str) -> dict[str, Payload]:
        values: dict[str, Payload] = {}
        self._fields.items(list(progress.published), "published", at)
        for name, value in progress.published.items():
            field = f"published[{name[:_SHOWN]!r}]"
            self._fields.name(name, f"{field}.key", at)
            values[name] = payload = self._payload(value, field, at)
            if len(payload.body) > _PUBLISHED_BYTES:
                problem = f"has {len(payload.body)} bytes, and a published value at most {_PUBLISHED_BYTES}"
                raise InvalidField(field=at + field, problem=problem)
        return values

    def _rejections(self, progress: workers_pb2.Progress, at: str) -> list[Rejection]:
        rejections = self._fields.items(progress.rejections, "rejections", at)
        return [self._rejection(each, f"{at}rejections[{place}].") for place, each in enumerate(rejections)]

    def _rejection(self, rejection: workers_pb2.UpdateRejection, at: str) -> Rejection:
        update_id = self._fields.name(rejection.update_id, "update_id", at)
        return Rejection(update_id, failure_from_proto(rejection.failure, self._fields, "failure", at))

    def _scope(self, scope: workers_pb2.ScopeState, at: str) -> ScopeClaim:
        if len(scope.hash) != _HASH_BYTES:
            raise InvalidField(field=f"{at}hash", problem=f"must be {_HASH_BYTES} bytes")
        count = checks.integer(scope.count, "count", at, at_most=ORDINALS)
        place, made = difference_from_proto(scope, self._fields, f"{at}difference.")
        return ScopeClaim(branch_path(scope.scope, at), count, scope.hash, scope.closed, place, made)

    def _step(self, step: workers_pb2.NewStep, at: str) -> NewStep:
        if len(step.fingerprint) > FINGERPRINT_BYTES:
            raise InvalidField(field=f"{at}fingerprint", problem=f"may have at most {FINGERPRINT_BYTES} bytes")
        scope, name = branch_path(step.scope, at), self._fields.name(step.name, "name", at)
        key = self._fields.text(step.key, "key", at)
        occurrence = checks.integer(step.occurrence, "occurrence", at, at_most=ORDINALS)
        kind, body = self._body(step, at)
        _require_update_scope(body, (scope, name, occurrence, key), at)
        require_race_key(body, kind, (scope, name, occurrence, key), at)
        return NewStep(scope, name, occurrence, key, step.fingerprint, kind, body)

    def _body(self, step: workers_pb2.NewStep, at: str) -> tuple[Kind, Body]:
        which = step.WhichOneof("kind")
        if which == "local":
            failure = None
            if step.local.HasField("failure"):
                failure = failure_from_proto(step.local.failure, self._fields, "local.failure", at)
            return Kind.LOCAL, Checkpoint(self._payload(step.local.result, "local.result", at), failure)
        if which == "marker":
            return Kind.MARKER, Checkpoint(self._payload(step.marker.value, "marker.value", at))
        if which == "activity":
            return Kind.ACTIVITY, self._activity(step.activity, f"{at}activity.")
        if which == "timer":
            return Kind.TIMER, NewTimer(checks.seconds(step.timer, "duration", f"{at}timer.") or 0.0)
        if which == "wait":
            return Kind.WAIT, self._wait(step.wait, f"{at}wait.")
        if which == "child":
            return Kind.CHILD, self._child(step.child, f"{at}child.")
        if which == "user_task":
            return Kind.USER_TASK, step_from_proto(step.user_task, self._fields, f"{at}user_task.")
        if which == "acceptance":
            name = self._fields.name(step.acceptance.update_name, "update_name", f"{at}acceptance.")
            place = checks.integer(step.acceptance.place, "place", f"{at}acceptance.", at_most=_MOST_PLACE)
            return Kind.MARKER, AcceptedUpdate(
                name, self._payload(step.acceptance.input, "acceptance.input", at), place
            )
        if which == "outcome":
            failed = step.outcome.HasField("failure")
            failure = failure_from_proto(step.outcome.failure, self._fields, "outcome.failure", at) if failed else None
            return Kind.MARKER, UpdateOutcome(self._payload(step.outcome.result, "outcome.result", at), failure)
        if which == "race":
            return Kind.MARKER, winner_from_proto(step.race, at)
        if which == "search_attributes":
            return Kind.MARKER, self._attributes(step.search_attributes, f"{at}search_attributes.")
        raise InvalidField(
            field=f"{at}kind",
            problem="is required: local, activity, timer, wait, child, user_task, marker, acceptance, outcome, race or "
            "search_attributes",
        )

    def _attributes(self, step: workers_pb2.SearchAttributesStep, at: str) -> SetAttributes:
        patch = attributes_from_proto(step.attributes, self._fields, "attributes", at)
        if not patch:
            raise InvalidField(field=f"{at}attributes", problem="is required: name at least one attribute")
        return SetAttributes(patch)

    def _wait(self, wait: workers_pb2.WaitStep, at: str) -> NewWait | NewTopicWait:
        timeout = checks.seconds(wait, "timeout", at)
        if wait.WhichOneof("awaited") == "topic":
            return NewTopicWait(self._fields.name(wait.topic, "topic", at), timeout)
        return NewWait(self._fields.name(wait.signal_name, "signal_name", at), timeout)

    def _payload(self, message: types_pb2.Payload, field: str, at: str) -> Payload:
        return payload_from_proto(message, self._fields, field, at)

    def _activity(self, activity: workers_pb2.ActivityStep, at: str) -> NewActivity:
        has_policy = activity.HasField("retry")
        return NewActivity(
            type=self._fields.name(activity.type, "type", at),
            task_queue=self._fields.text(activity.task_queue, "task_queue", at),
            input=self._payload(activity.input, "input", at),
            retry=retry_from_proto(activity.retry, self._fields, f"{at}retry.") if has_policy else None,
            timeouts=timeouts_from_proto(activity, at),
            priority=priority_from_proto(activity, at),
            shielded=activity.shielded,
        )

    def _child(self, child: workers_pb2.ChildStep, at: str) -> NewChild:
        reuse, conflict = policies_from_proto(child, self._fields, at)
        if conflict == Conflict.USE_EXISTING:
            problem = "must be FAIL or TERMINATE_EXISTING: a child is its parent's from its start"
            raise InvalidField(field=f"{at}conflict_policy", problem=problem)
        return NewChild(
            type=self._fields.name(child.type, "type", at),
            task_queue=self._fields.text(child.task_queue, "task_queue", at),
            workflow_id=self._fields.text(child.workflow_id, "workflow_id", at),
            input=self._payload(child.input, "input", at),
            close_policy=self._fields.member(
                child.parent_close_policy, types_pb2.ParentClosePolicy, "parent_close_policy", at
            )
            or 1,
            timeout_seconds=checks.seconds(child, "run_timeout", at) or None,
            retry=run_retry_from_proto(child, self._fields, at),
            concurrency=concurrency_from_proto(child, self._fields, at),
            reuse=reuse,
            conflict=conflict,
        )

    def _end(self, progress: workers_pb2.Progress, at: str) -> End | None:
        which = progress.WhichOneof("end")
        if which is None:
            return None
        if which == "complete":
            return End(Phase.COMPLETED, self._payload(progress.complete.result, "complete.result", at))
        if which == "fail":
            failure = failure_from_proto(progress.fail.failure, self._fields, "fail.failure", at)
            return End(Phase.FAILED, failure=failure)
        if which == "cancelled":
            return End(Phase.CANCELLED, self._payload(progress.cancelled.details, "cancelled.details", at))
        successor = progress.continue_as_new
        here = f"{at}continue_as_new."
        return End(
            Phase.COMPLETED,
            NULL,
            successor=Successor(
                self._payload(successor.input, "input", here),
                self._fields.text(successor.type, "type", here),
                self._fields.text(successor.task_queue, "task_queue", here),
            ),
        )


def branch_path(scope: str, at: str) -> str:
    """The path of a branch; empty for the run's own line."""
    if scope and scope != UPDATES and (not _SCOPE.fullmatch(scope) or scope.count("/") >= _DEEPEST):
        problem = "must be branch numbers from 1, such as 2/1, at most 8 deep; an update's begin with 0/"
        raise InvalidField(field=f"{at}scope", problem=problem)
    return scope


def _require_update_scope(body: Body, named: tuple[str, str, int, str], at: str) -> None:
    """The scope of updates holds their acceptances and outcomes, named by their ids, and nothing else."""
    if isinstance(body, AcceptedUpdate | UpdateOutcome):
        key = named[3]
        wanted = acceptance_of(key) if isinstance(body, AcceptedUpdate) else outcome_of(key)
        if not key or named != wanted:
            problem = f"must be scope {wanted[0]!r}, name {wanted[1]!r}, and as key the update's id"
            raise InvalidField(field=f"{at}key", problem=problem)
    elif named[0] == UPDATES:
        raise InvalidField(field=f"{at}scope", problem="is for acceptances and outcomes of updates only")
