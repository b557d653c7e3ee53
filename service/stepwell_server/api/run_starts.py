"""What a request to start a run, or to signal one, says: parsed into commands."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from stepwell.v1 import repairs_pb2, run_store_pb2, runs_pb2, types_pb2, workers_pb2
from stepwell_server import telemetry
from stepwell_server.api.activity_options import run_retry_from_proto
from stepwell_server.api.concurrency_values import concurrency_from_proto
from stepwell_server.api.debounce_values import debounce_from_proto
from stepwell_server.api.definition_values import ref_from_proto
from stepwell_server.api.fields import fairness_key, integer, optional_uuid, seconds
from stepwell_server.api.payloads import payload_from_proto
from stepwell_server.api.search_attributes import attributes_from_proto
from stepwell_server.engine.signal_with_start import SignalWithStartRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import Conflict, NewRun, Reuse, StartRun
from stepwell_server.errors import InvalidField
from stepwell_server.ids import run_id_for_request
from stepwell_server.model.definitions import DefinitionRef
from stepwell_server.model.runs import RunDetails, unpack_details

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stepwell_server.api.fields import Fields
    from stepwell_server.model.runs import RunRef
    from stepwell_server.model.search_attributes import AttributeValue
    from stepwell_server.store.runs import WholeRun

Metadata = Iterable[tuple[str, str | bytes]]
Started = TypeVar(
    "Started",
    runs_pb2.StartRunRequest,
    run_store_pb2.CreateRunRequest,
    run_store_pb2.RerunRunRequest,
    repairs_pb2.ForkRunRequest,
)
DEFAULT_QUEUE, DEFAULT_PRIORITY, HIGHEST_PRIORITY = "default", 4, 9
_OVERHEAD = 512


def start_from_proto(  # noqa: PLR0917 - one request and where it stands
    request: runs_pb2.StartRunRequest,
    namespace_id: int,
    namespace: str,
    metadata: Metadata,
    fields: Fields,
    at: str = "",
) -> StartRun:
    """Reads a start. One with a request id has an id that follows from it, and a hash of all else that it says."""
    request_id = fields.text(request.request_id, "request_id", at)
    run_id = optional_uuid(request.run_id, "run_id", at)
    if run_id is None and request_id:
        run_id = run_id_for_request(namespace, request_id)
    definition = definition_from_proto(request, fields, at)
    workflow_type = type_from_proto(request, definition, fields, at)
    traceparent, tracestate = telemetry.new_traceparent(metadata, type=label_of(workflow_type, definition))
    debounce = debounce_from_proto(request, fields, at)
    new = NewRun(
        namespace_id=namespace_id,
        namespace=namespace,
        type=workflow_type,
        task_queue=fields.text(request.task_queue, "task_queue", at) or DEFAULT_QUEUE,
        run_id=run_id,
        workflow_id=fields.text(request.workflow_id, "workflow_id", at),
        input=payload_from_proto(request.input, fields, "input", at),
        priority=_priority(request, at),
        correlation_id=fields.text(request.correlation_id, "correlation_id", at),
        traceparent=traceparent,
        tracestate=tracestate,
        timeout_seconds=seconds(request, "run_timeout", at) or None,
        delay_seconds=seconds(request, "start_delay", at) or None if debounce is None else debounce.period_seconds,
        details=RunDetails(
            **policy_from_proto(request.cancellation_policy, at),
            retry=run_retry_from_proto(request, fields, at),
            concurrency=concurrency_from_proto(request, fields, at),
            debounce=debounce,
            fairness_key=fairness_key(request.fairness_key, fields, at),
        ),
        search_attributes=first_attributes(request, fields, at),
        definition=definition,
    )
    reuse, conflict = policies_from_proto(request, fields, at)
    request_hash = content_hash(request, namespace) if request_id else None
    return StartRun(new, reuse, conflict, request_id, request_hash)


def first_attributes(
    request: runs_pb2.StartRunRequest | run_store_pb2.CreateRunRequest, fields: Fields, at: str = ""
) -> dict[str, AttributeValue]:
    """Reads the search attributes that a run begins with."""
    given = request.search_attributes
    return attributes_from_proto(given, fields, "search_attributes", at) if given else {}


def definition_from_proto(request: Any, fields: Fields, at: str = "") -> DefinitionRef | None:  # noqa: ANN401
    """Reads which definition a run follows, or is to follow."""
    if not request.HasField("definition"):
        return None
    return ref_from_proto(request.definition, fields, f"{at}definition.")


def type_from_proto(
    request: runs_pb2.StartRunRequest | run_store_pb2.CreateRunRequest,
    definition: DefinitionRef | None,
    fields: Fields,
    at: str = "",
) -> str:
    """Reads the type; empty if it is the code of the definition."""
    return fields.name(request.type, "type", at) if definition is None else fields.text(request.type, "type", at)


def label_of(workflow_type: str, definition: DefinitionRef | None) -> str:
    """What the trace of a start calls its run."""
    return workflow_type or (definition.label if definition is not None else "")


def policies_from_proto(
    request: runs_pb2.StartRunRequest | workers_pb2.ChildStep, fields: Fields, at: str = ""
) -> tuple[int, int]:
    """Reads what may become of a workflow id that is, or was, borne by another run."""
    reuse = fields.member(request.reuse_policy, runs_pb2.WorkflowIdReusePolicy, "reuse_policy", at)
    conflict = fields.member(request.conflict_policy, runs_pb2.WorkflowIdConflictPolicy, "conflict_policy", at)
    if reuse == Reuse.REJECT and conflict == Conflict.TERMINATE_EXISTING:
        problem = "must not be TERMINATE_EXISTING where reuse_policy is REJECT: that allows no second run"
        raise InvalidField(field=f"{at}conflict_policy", problem=problem)
    return reuse or Reuse.ALLOW, conflict or Conflict.FAIL


def signal_with_start_from_proto(
    request: runs_pb2.SignalWithStartRunRequest, namespace_id: int, namespace: str, metadata: Metadata, fields: Fields
) -> SignalWithStartRun:
    """Reads a signal with what to start if nothing is open."""
    fields.name(request.start.workflow_id, "workflow_id", "start.")
    require_namespace(request.start.namespace, namespace, "start.")
    return SignalWithStartRun(
        start_from_proto(request.start, namespace_id, namespace, metadata, fields, "start."),
        fields.name(request.signal_name, "signal_name"),
        payload_from_proto(request.payload, fields, "payload"),
        fields.text(request.request_id, "request_id") or None,
    )


def signal_from_proto(request: runs_pb2.SignalRunRequest, ref: RunRef, fields: Fields, at: str = "") -> SignalRun:
    """Reads a signal for a run."""
    return SignalRun(
        ref,
        fields.name(request.signal_name, "signal_name", at),
        payload_from_proto(request.payload, fields, "payload", at),
        fields.text(request.request_id, "request_id", at) or None,
    )


def require_namespace(named: str, namespace: str, at: str) -> None:
    """Refuses an item that names another namespace than the request that it is part of."""
    if named not in ("", namespace):
        problem = f"must be empty or {namespace}, the namespace of the whole request"
        raise InvalidField(field=f"{at}namespace", problem=problem)


def size_of(message: Message) -> int:
    """About how much of the committer's memory a request takes."""
    return message.ByteSize() + _OVERHEAD


def _priority(request: runs_pb2.StartRunRequest, at: str) -> int:
    if not request.HasField("priority"):
        return DEFAULT_PRIORITY
    return integer(request.priority, "priority", at, at_most=HIGHEST_PRIORITY)


def policy_from_proto(policy: types_pb2.CancellationPolicy, at: str = "") -> dict[str, Any]:
    """Reads a cancellation policy as fields of RunDetails."""
    path = f"{at}cancellation_policy."
    return {
        "maximum_run_seconds": seconds(policy, "maximum_run_duration", path) or None,
        "maximum_suspend_seconds": seconds(policy, "maximum_suspend_duration", path) or None,
    }


def content_hash(request: Started, namespace: str) -> bytes:
    """What a request to start says, but for its request id."""
    content = type(request)()
    content.CopyFrom(request)
    content.request_id = ""
    # The same start is the same whether it names its namespace itself, or the batch does.
    content.namespace = namespace
    return sha256(content.SerializeToString(deterministic=True)).digest()


def alike(source: WholeRun, namespace: str) -> NewRun:
    """A new run with what every run has of the one that it comes from."""
    run, details = source.run, unpack_details(source.run.details)
    return NewRun(
        namespace_id=run.namespace_id,
        namespace=namespace,
        type=run.type,
        task_queue=run.task_queue,
        input=source.input,
        details=RunDetails(
            maximum_run_seconds=details.maximum_run_seconds,
            maximum_suspend_seconds=details.maximum_suspend_seconds,
            source_run_id=str(run.run_id),
            concurrency=details.concurrency,
            fairness_key=details.fairness_key,
        ),
        search_attributes=source.search_attributes,
        definition=None if details.definition is None else DefinitionRef(details.definition.definition_id),
    )
