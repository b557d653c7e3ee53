"""Every error of this client: the service's refusals by their reason, and what runs and steps end with.

A refusal of the service carries a reason such as `RUN_NOT_FOUND`; it is raised as the class of that name, below a
class for its canonical code. A reason that this version does not know is raised as the class of the code.

    StepwellError
      ServiceError            the service refused, or could not be reached
        NotFound, Aborted …   by canonical code
          RunNotFound …       by reason
      RunFailed               a run that was waited for did not complete
      UpdateError             an update came to no result
        UpdateRejected, UpdateFailed
      StepError               a step did not succeed (seen by a workflow)
        StepFailed, ActivityFailed, ChildFailed, WaitTimeout, UserTaskCancelled
      ConversionError         a value and a payload do not fit
      CertificateError        a file of TLS cannot be used
      ApplicationError        raised by activities and steps that want a say in what follows
"""

# ruff: noqa: N818 - named for the fact; a reason is its class's name

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.v1.types_pb2 import Failure


class StepwellError(Exception):
    """The root of all errors of this client.

    `reason` names the error for programs, `metadata` holds its facts, `code` is the canonical code if the service
    refused.
    """

    code: grpc.StatusCode | None = None

    def __init__(self, message: str = "", *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        """Keeps the facts."""
        super().__init__(message)
        self.reason = reason or reason_of(type(self).__name__)
        self.metadata: Mapping[str, str] = metadata or {}

    @property
    def message(self) -> str:
        """What is wrong, for a person."""
        return str(self.args[0]) if self.args else ""


class ConversionError(StepwellError):
    """A value cannot be turned into a payload, or a payload not into the type that is wanted."""


class CertificateError(StepwellError):
    """A file for TLS is missing or cannot be used; the message says which, and nothing of what is in it."""


class ApplicationError(StepwellError):
    """Fails an activity or a step, with a say in what follows.

    `type` names the kind of failure (default: the class's name), `non_retryable` ends all attempts, `retry_after` is
    the delay before the next attempt in seconds and replaces the policy's once, `details` is kept with the failure.
    """

    def __init__(
        self,
        message: str,
        *,
        type: str = "",  # noqa: A002 - the field's name in the protocol
        non_retryable: bool = False,
        retry_after: float | None = None,
        details: object = None,
    ) -> None:
        """Keeps the facts."""
        super().__init__(message)
        self.type = type or self.__class__.__name__
        self.non_retryable = non_retryable
        self.retry_after = retry_after
        self.details = details


class RunFailed(StepwellError):
    """A run ended otherwise than `COMPLETED`.

    `phase` is `FAILED`, `CANCELLED`, `TERMINATED`, `TIMED_OUT` or `SKIPPED`; `failure` says why, if anything does.
    """

    def __init__(self, run_id: str, phase: str, failure: Failure | None) -> None:
        """Keeps the facts."""
        why = f": {failure.type}: {failure.message}" if failure is not None and failure.message else ""
        super().__init__(f"run {run_id} is {phase}{why}", metadata={"run_id": run_id, "phase": phase})
        self.run_id = run_id
        self.phase = phase
        self.failure = failure


class JobFailed(StepwellError):
    """A job ended otherwise than `COMPLETED`.

    `state` is `FAILED` or `CANCELLED`; `failure` says why, if anything does.
    """

    def __init__(self, job_id: str, state: str, failure: Failure | None) -> None:
        """Keeps the facts."""
        why = f": {failure.type}: {failure.message}" if failure is not None and failure.message else ""
        super().__init__(f"job {job_id} is {state}{why}", metadata={"job_id": job_id, "state": state})
        self.job_id = job_id
        self.state = state
        self.failure = failure


class UpdateError(StepwellError):
    """An update came to no result. `update_name` and `update_id` name it, `failure` says why."""

    verb: ClassVar[str] = "failed"

    def __init__(self, update_name: str, update_id: str, failure: Failure) -> None:
        """Keeps the facts."""
        facts = {"update_name": update_name, "update_id": update_id, "type": failure.type}
        why = f"{failure.type}: {failure.message}" if failure.type else failure.message
        super().__init__(f"update {update_name} {self.verb}: {why}", metadata=facts)
        self.update_name = update_name
        self.update_id = update_id
        self.failure = failure
        self.type = failure.type


class UpdateFailed(UpdateError):
    """The run's code accepted the update, and failed to do it. That is recorded."""


class UpdateRejected(UpdateError):
    """The run's code did not accept the update. Nothing is recorded of it."""

    verb = "was rejected"


class StepError(StepwellError):
    """A step of a run did not succeed. `step_name` is its name, `failure` says why."""

    noun: ClassVar[str] = "step"
    verb: ClassVar[str] = "failed"

    def __init__(self, step_name: str, failure: Failure | None) -> None:
        """Keeps the facts."""
        kind = failure.type if failure is not None else ""
        why = f": {kind}: {failure.message}" if failure is not None and (kind or failure.message) else ""
        super().__init__(f"{self.noun} {step_name} {self.verb}{why}", metadata={"step_name": step_name, "type": kind})
        self.step_name = step_name
        self.failure = failure
        self.type = kind


class StepFailed(StepError):
    """A checkpoint's function raised."""


class ActivityFailed(StepError):
    """An activity failed for good, timed out or was cancelled."""

    noun = "activity"


class ChildFailed(StepError):
    """A child run ended otherwise than `COMPLETED`."""

    noun = "child"


class WaitTimeout(StepError):
    """The time of a wait was over before its signal, or its event, came."""

    noun = "wait"
    verb = "timed out"

    def __init__(self, step_name: str) -> None:
        """Keeps the name."""
        super().__init__(step_name, None)


class UserTaskCancelled(StepError):
    """Somebody cancelled the task for a person that the code waited for. `failure` says why."""

    noun = "user task"
    verb = "was cancelled"


class ServiceError(StepwellError):
    """The service refused a call, or could not be reached. `retry_seconds` is the service's advice, if it gave any."""

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        code: grpc.StatusCode | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        """Keeps the facts."""
        super().__init__(message, reason=reason, metadata=metadata)
        if code is not None:
            self.code = code
        self.retry_seconds = retry_seconds

    def __str__(self) -> str:
        """The message, or else the reason."""
        return self.message or self.reason


class InvalidArgument(ServiceError):
    """The request is wrong whatever the state."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ServiceError):
    """What the request names is not there."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """What the request would make is there already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The state does not allow it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """Somebody else was faster; the call may be repeated."""

    code = grpc.StatusCode.ABORTED


class PermissionDenied(ServiceError):
    """The caller is known and may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(ServiceError):
    """The caller is not known: the API key is missing or wrong."""

    code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhausted(ServiceError):
    """A bound is reached; with `retry_seconds` it will pass."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(ServiceError):
    """The service cannot be reached, or cannot answer now."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """The call's time is over. Whether it had an effect is not known."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unimplemented(ServiceError):
    """The service does not do this; it may be older than this client."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(ServiceError):
    """The service is at fault."""

    code = grpc.StatusCode.INTERNAL


def reason_of(name: str) -> str:
    """Turns a class's name into a reason: `RunNotFound` into `RUN_NOT_FOUND`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()
