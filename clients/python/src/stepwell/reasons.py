"""The service's refusals, one class for each reason, and how an answer of the service becomes one of them.

`stepwell.errors` tells how the classes hang together. A reason is its class's name: `RUN_NOT_FOUND`, `RunNotFound`.
"""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2

from stepwell import _handshakes, errors

_DETAILS_KEY = "grpc-status-details-bin"


class InvalidField(errors.InvalidArgument):
    """A field of the request is invalid; the message names it."""


class InvalidFields(errors.InvalidArgument):
    """Several fields of the request are invalid."""


class MessageMalformed(errors.InvalidArgument):
    """The bytes of the message are no message of the type that the method takes."""


class PageTokenInvalid(errors.InvalidArgument):
    """The page token is not one that this list gave."""


class WatchCursorInvalid(errors.InvalidArgument):
    """The cursor is not one that this watch gave."""


class RequestIdReused(errors.InvalidArgument):
    """The request id was used before for another request."""


class NamespaceNotFound(errors.NotFound):
    """The namespace does not exist."""


class NamespaceExists(errors.AlreadyExists):
    """The namespace exists already."""


class NamespaceNotEmpty(errors.FailedPrecondition):
    """The namespace still has runs."""


class ApiKeyMissing(errors.Unauthenticated):
    """The call came without a key, which the service asks for."""


class ApiKeyMalformed(errors.Unauthenticated):
    """What the call came with is no key."""


class ApiKeyUnknown(errors.Unauthenticated):
    """Nobody has such a key."""


class ApiKeyRevoked(errors.Unauthenticated):
    """The key was revoked."""


class ApiKeyExpired(errors.Unauthenticated):
    """The key's time is over."""


class RoleDenied(errors.PermissionDenied):
    """The key's role does not allow the call."""


class NamespaceDenied(errors.PermissionDenied):
    """The key is for another namespace."""


class TaskQueueDenied(errors.PermissionDenied):
    """The key, token or certificate does not let a worker take tasks from that queue."""


class TokenMalformed(errors.Unauthenticated):
    """What the call came with looks like a token, and is none."""


class TokenUntrusted(errors.Unauthenticated):
    """The token is of nobody whom the service trusts, or for somebody else, or not valid yet."""


class TokenExpired(errors.Unauthenticated):
    """The token's time is over."""


class IssuerKeysUnavailable(errors.Unavailable):
    """The service can't have the keys of the token's issuer now."""


class IdentityWithoutRole(errors.PermissionDenied):
    """The token or the certificate is good, and gives its bearer no role."""


class ApiKeyNotFound(errors.NotFound):
    """The key does not exist."""


class ApiKeyAmbiguous(errors.FailedPrecondition):
    """Several keys have the prefix."""


class ApiKeyExists(errors.AlreadyExists):
    """The hash was imported before."""


class ApiKeysNotRequired(errors.FailedPrecondition):
    """The service asks nobody for a key, and makes none by a call."""


class RunNotFound(errors.NotFound):
    """The run does not exist in the namespace."""


class RunAmbiguous(errors.FailedPrecondition):
    """The run exists in more than one namespace."""


class WorkerAmbiguous(errors.FailedPrecondition):
    """The worker is registered in more than one namespace."""


class RunExists(errors.AlreadyExists):
    """A run of that id, or of a workflow id that is used only once, exists already."""


class WorkflowIdInUse(errors.AlreadyExists):
    """An open run has that workflow id."""


class RunTerminal(errors.FailedPrecondition):
    """The run has ended."""


class RunNotEnded(errors.FailedPrecondition):
    """The run is open, and only what has ended is removed."""


class RunPurged(errors.FailedPrecondition):
    """The run's history was archived (`metadata["archive_uri"]`) or pruned: nor is its result here any more."""


class ArchiveNotSet(errors.FailedPrecondition):
    """The namespace has no archive."""


class ArchivesNotSupported(errors.FailedPrecondition):
    """The server can't archive there."""


class ArchiveUnavailable(errors.Unavailable):
    """The object store can't be reached, or refuses the server."""


class RunNotDriven(errors.FailedPrecondition):
    """The run is no driven run: its workers and the service move it."""


class RunDriven(errors.FailedPrecondition):
    """The run is a driven run: its own engine moves it."""


class RunContinued(errors.FailedPrecondition):
    """Another run goes on with the run's work."""


class RunPhaseConflict(errors.FailedPrecondition):
    """No legal move leads from the run's phase to the one wanted."""


class RunPaused(errors.FailedPrecondition):
    """The run is paused."""


class RunVersionChanged(errors.FailedPrecondition):
    """The run has another version than the caller has seen: somebody has changed it since."""


class WritesBusy(errors.Aborted):
    """What the writes of a commit are about is being changed by others."""


class RunBusy(errors.Aborted):
    """Somebody else is changing the run."""


class LeaseLost(errors.FailedPrecondition):
    """The lease is over: somebody else has the task, or nobody."""


class ResultNotRecorded(errors.FailedPrecondition):
    """A run's code went on with a result that is not recorded: its worker gives it back, and it is replayed."""


class StepNotFound(errors.NotFound):
    """The run has no such step."""


class StepStateConflict(errors.FailedPrecondition):
    """The step's state does not allow this."""


class UserTaskNotFound(errors.NotFound):
    """The user task does not exist in the namespace."""


class UserTaskExists(errors.AlreadyExists):
    """A user task has that id already."""


class UserTaskStateConflict(errors.FailedPrecondition):
    """What the user task is, or who has it, does not allow this. `metadata` holds `status` and `claimed_by`."""


class UserTaskAssignedElsewhere(errors.PermissionDenied):
    """The user task is assigned to another user, and nobody else may claim it."""


class UserTaskVersionConflict(errors.Aborted):
    """The user task has changed since it was read."""


class RunNotPaused(errors.FailedPrecondition):
    """The run is not paused; its record is mended only while it is."""


class RepairDisagrees(errors.FailedPrecondition):
    """Mended as was asked, the record would not agree with what is known of the run's code."""


class StepOrderChanged(errors.FailedPrecondition):
    """The run's code calls other steps than were recorded."""


class ScheduleExists(errors.AlreadyExists):
    """A schedule of that name exists already."""


class ScheduleNotFound(errors.NotFound):
    """The schedule does not exist in the namespace."""


class DefinitionNotFound(errors.NotFound):
    """The definition, or that version of it, does not exist in the namespace."""


class DefinitionExists(errors.AlreadyExists):
    """The code has that version already, or another definition has that id."""


class DefinitionInUse(errors.FailedPrecondition):
    """A run follows the definition, so that it can't be deleted."""


class DefinitionChanged(errors.FailedPrecondition):
    """Another call changed the definition since its revision was read; `metadata["revision"]` is the present one."""


class RunDataChanged(errors.FailedPrecondition):
    """Another call changed the run's data since its version was read; `metadata["version"]` is the present one."""


class EventSeqExists(errors.AlreadyExists):
    """The run has an event of that number of the caller's."""


class SignalRefused(errors.FailedPrecondition):
    """The run takes no signal: it has ended."""


class QueryFailed(errors.FailedPrecondition):
    """The run's code failed to answer the query, or has none of that name; `metadata` has its `type` and `problem`."""


class NothingPublished(errors.NotFound):
    """No worker holds the run, and its code has published nothing of that name."""


class UpdateUndecided(errors.DeadlineExceeded):
    """The update is not recorded so far in time. It may happen yet: repeat it with the same id."""


class JobNotFound(errors.NotFound):
    """The job does not exist in the namespace, or its retention is over."""


class JobExists(errors.AlreadyExists):
    """A job has that id already, or its unique key may not be used again."""


class UniqueKeyInUse(errors.AlreadyExists):
    """An open job has that unique key; `metadata["job_id"]` names it."""


class JobNotFailed(errors.FailedPrecondition):
    """Only a job that has failed is retried."""


class JobBusy(errors.Aborted):
    """Somebody else is changing the job right now."""


class SessionNotFound(errors.NotFound):
    """The session does not exist."""


class SessionExpired(errors.FailedPrecondition):
    """The session has expired, and its leases with it."""


class LimitExceeded(errors.ResourceExhausted):
    """A limit would be exceeded; the metadata names it."""


class TooManyStreams(errors.ResourceExhausted):
    """The key, or the connection where there is none, has as many streams as it may have."""


class QueueFull(errors.ResourceExhausted):
    """The service has more work waiting than it may hold."""


class DatabaseUnavailable(errors.Unavailable):
    """The service cannot reach its database."""


class ServerNotReady(errors.Unavailable):
    """The server starts, or its database does not suit it; the message says what to do."""


class OutcomeUnknown(errors.Unavailable):
    """Whether the change was committed is not known; its repeat is recognised."""


class DatabaseContended(errors.Unavailable):
    """Others change the same in the database; another try may go through."""


class CallTimedOut(errors.DeadlineExceeded):
    """The call took longer than it may."""


class MethodUnimplemented(errors.Unimplemented):
    """The method is declared and not served by this server."""


class InternalError(errors.Internal):
    """The service failed; `metadata["error_id"]` finds its log."""


CODES: dict[int, type[errors.ServiceError]] = {
    cls.code.value[0]: cls for cls in errors.ServiceError.__subclasses__() if cls.code is not None
}
REASONS: dict[str, type[errors.ServiceError]] = {
    errors.reason_of(cls.__name__): cls for code in CODES.values() for cls in code.__subclasses__()
}
_STATUS_CODES = {int(code.value[0]): code for code in grpc.StatusCode}


def from_status(status: status_pb2.Status) -> errors.ServiceError:
    """Turns a status, as batches and reports are answered with, into an error."""
    reason = ""
    metadata: dict[str, str] = {}
    retry_seconds = None
    message = status.message
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            fields = "; ".join(f"{v.field} {v.description}" for v in bad.field_violations)
            if fields and not all(v.field in message for v in bad.field_violations):
                message = f"{message} ({fields})"
    cls = REASONS.get(reason) or CODES.get(status.code, errors.ServiceError)
    code = _STATUS_CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return cls(message, reason=reason, metadata=metadata, code=code, retry_seconds=retry_seconds)


def from_rpc(error: grpc.RpcError) -> errors.ServiceError:
    """Turns gRPC's own error into one of ours."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return errors.ServiceError(str(error))
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code = error.code()
    cls = CODES.get(int(code.value[0]), errors.ServiceError)
    details = error.details() or code.name
    advice = _handshakes.advice(details) if code is grpc.StatusCode.UNAVAILABLE else ""
    return cls(f"{advice} ({details})" if advice else details, reason=code.name, code=code)
