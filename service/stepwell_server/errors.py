"""Every refusal of the service, declared once: each a class as `refusals` describes.

Raised where the fact is known, caught only by the interceptor that answers the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.refusals import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Refusal,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

if TYPE_CHECKING:
    from uuid import UUID


class InvalidField(InvalidArgument):
    """Field {field} {problem}."""

    field: str
    problem: str

    def field_violations(self) -> tuple[tuple[str, str], ...]:
        return ((self.field, self.problem),)


class InvalidFields(InvalidArgument):
    """Several fields are invalid."""

    violations: tuple[tuple[str, str], ...]

    def field_violations(self) -> tuple[tuple[str, str], ...]:
        return self.violations


def placed(refusal: Refusal, at: str) -> Refusal:
    """The refusal of one part of a request, which names that part; of a field, by its path."""
    if isinstance(refusal, InvalidField):
        return InvalidField(field=f"{at}.{refusal.field}", problem=refusal.problem)
    if isinstance(refusal, InvalidFields):
        return InvalidFields(violations=tuple((f"{at}.{field}", problem) for field, problem in refusal.violations))
    refusal.at = at
    return refusal


class MessageMalformed(InvalidArgument):
    """The message is no {type}: {problem}."""

    type: str
    problem: str


class PageTokenInvalid(InvalidArgument):
    """The page token is not one that this list gave: {problem}."""

    problem: str

    def field_violations(self) -> tuple[tuple[str, str], ...]:
        return (("page_token", self.problem),)


class WatchCursorInvalid(InvalidArgument):
    """The watch cursor is not one that this watch gave: {problem}."""

    problem: str

    def field_violations(self) -> tuple[tuple[str, str], ...]:
        return (("cursor", self.problem),)


class RequestIdReused(InvalidArgument):
    """Request id {request_id} was used before for another {method} request."""

    method: str
    request_id: str


class NamespaceNotFound(NotFound):
    """Namespace {namespace} does not exist."""

    namespace: str


class NamespaceExists(AlreadyExists):
    """Namespace {namespace} exists already."""

    namespace: str


class NamespaceNotEmpty(FailedPrecondition):
    """Namespace {namespace} still has runs or jobs."""

    namespace: str


class ApiKeyMissing(Unauthenticated):
    """The call came without a key: send `authorization: Bearer` and a key."""


class ApiKeyMalformed(Unauthenticated):
    """What the call came with is no key: send `authorization: Bearer` and a key."""


class ApiKeyUnknown(Unauthenticated):
    """Nobody has such a key."""


class ApiKeyRevoked(Unauthenticated):
    """The key was revoked."""


class ApiKeyExpired(Unauthenticated):
    """The key's time is over."""


class TokenMalformed(Unauthenticated):
    """What the call came with is no token that can be read: {problem}."""

    problem: str


class TokenUntrusted(Unauthenticated):
    """The token proves nothing here: {problem}."""

    problem: str


class TokenExpired(Unauthenticated):
    """The token's time is over: come with a new one."""


class IssuerKeysUnavailable(Unavailable):
    """The keys of the issuer {issuer} can't be had now, so that its tokens can't be told from others."""

    issuer: str


class IdentityWithoutRole(PermissionDenied):
    """The caller proved to be {identity}, and no rule of this server gives that a role."""

    identity: str


class RoleDenied(PermissionDenied):
    """A caller of role {role} may not call {method}, which is for {needed}."""

    method: str
    role: str
    needed: str


class NamespaceDenied(PermissionDenied):
    """The caller is for namespace {namespace} alone, and field {field} names another."""

    namespace: str
    field: str


class TaskQueueDenied(PermissionDenied):
    """The caller may not take tasks from the queue {task_queue}, which field {field} names."""

    task_queue: str
    field: str


class ApiKeyNotFound(NotFound):
    """API key {key_id} does not exist."""

    key_id: UUID | str


class ApiKeyAmbiguous(FailedPrecondition):
    """Several keys have the prefix {prefix}, name the one that is meant: {key_ids}."""

    prefix: str
    key_ids: str


class ApiKeyExists(AlreadyExists):
    """The hash of the key with the prefix {prefix} was imported before."""

    prefix: str


class ApiKeysNotRequired(FailedPrecondition):
    """The server asks nobody for a key: make keys by `stepwell-server keys create`."""


class RunNotFound(NotFound):
    """Run {run_id} does not exist in namespace {namespace}."""

    namespace: str
    run_id: UUID | str


class RunAmbiguous(FailedPrecondition):
    """Run {run_id} exists in more than one namespace: name the one that is meant."""

    run_id: UUID | str


class RunExists(AlreadyExists):
    """Run {run_id} exists already, and its id or workflow id is not given twice: choose another."""

    namespace: str
    workflow_id: str
    run_id: UUID | str


class WorkflowIdInUse(AlreadyExists):
    """Workflow id {workflow_id} is in use by the open run {run_id}: choose another, or another conflict policy."""

    namespace: str
    workflow_id: str
    run_id: UUID | str


class RunTerminal(FailedPrecondition):
    """Run {run_id} has ended: {phase}."""

    run_id: UUID | str
    phase: str


class RunNotDriven(FailedPrecondition):
    """Run {run_id} is no driven run: its workers and the service move it."""

    run_id: UUID | str


class RunPhaseConflict(FailedPrecondition):
    """Run {run_id} is {phase}, from where no legal move leads to {wanted}."""

    run_id: UUID | str
    phase: str
    wanted: str


class RunDriven(FailedPrecondition):
    """Run {run_id} is a driven run: its own engine moves it."""

    run_id: UUID | str


class RunContinued(FailedPrecondition):
    """Run {run_id} goes on as run {continued_run_id}: name that one."""

    run_id: UUID | str
    continued_run_id: UUID | str


class RunPaused(FailedPrecondition):
    """Run {run_id} is paused: {pause_reason}."""

    run_id: UUID | str
    pause_reason: str


class RunNotPaused(FailedPrecondition):
    """Run {run_id} is not paused: pause it first."""

    run_id: UUID | str


class RunBusy(Aborted):
    """Run {run_id} is being changed by somebody else."""

    run_id: UUID | str
    retry_seconds: float | None = 0.05


class RunNotEnded(FailedPrecondition):
    """Run {run_id} is open ({phase}), and only what has ended is removed: end it first, or say `force`."""

    run_id: UUID | str
    phase: str


class RunVersionChanged(FailedPrecondition):
    """Run {run_id} has version {current}, not {expected}: somebody has changed it since."""

    run_id: UUID | str
    expected: int
    current: int


class WritesBusy(Aborted):
    """What the {count} writes are about is being changed by others."""

    count: int
    retry_seconds: float | None = 0.05


class RunPurged(FailedPrecondition):
    """The history of run {run_id} is here no more (archive: {archive_uri}), so that it can't be opened again."""

    run_id: UUID | str
    archive_uri: str


class ArchiveNotSet(FailedPrecondition):
    """Namespace {namespace} has no archive: set its archive_url."""

    namespace: str


class ArchivesNotSupported(FailedPrecondition):
    """Nothing can be archived to {url} by this server: {advice}."""

    url: object
    advice: str


class ArchiveUnavailable(Unavailable):
    """The archive at {url} can't be written to: {problem}."""

    url: object
    problem: str
    retry_seconds: float | None = 5.0


class JobNotFound(NotFound):
    """Job {job_id} does not exist in namespace {namespace}."""

    namespace: str
    job_id: UUID | str


class JobExists(AlreadyExists):
    """Job {job_id} exists already, and its id or unique key is not given twice: choose another."""

    namespace: str
    unique_key: str
    job_id: UUID | str


class UniqueKeyInUse(AlreadyExists):
    """Unique key {unique_key} is in use by the open job {job_id}: choose another, or another conflict policy."""

    namespace: str
    unique_key: str
    job_id: UUID | str


class JobNotFailed(FailedPrecondition):
    """Job {job_id} is {state}: only one that has failed is retried."""

    job_id: UUID | str
    state: str


class JobBusy(Aborted):
    """Job {job_id} is being changed by somebody else."""

    job_id: UUID | str
    retry_seconds: float | None = 0.05


class LeaseLost(FailedPrecondition):
    """The lease on {run_id} under token {token} is over: the present token is {current}."""

    run_id: UUID | str
    token: int
    current: int


class ResultNotRecorded(FailedPrecondition):
    """The result of step {ordinal} of run {run_id}, with which its code went on, is not recorded: give the run back."""

    run_id: UUID | str
    ordinal: int


class StepNotFound(NotFound):
    """Step {step} does not exist in run {run_id}."""

    run_id: UUID | str
    step: str


class StepStateConflict(FailedPrecondition):
    """Step {step} is {state}, which does not allow this."""

    step: str
    state: str


class StepOrderChanged(FailedPrecondition):
    """The steps of run {run_id} differ from its record in scope {scope}: recorded {recorded}, got {got}."""

    run_id: UUID | str
    scope: str
    recorded: str
    got: str


class RepairDisagrees(FailedPrecondition):
    """Repaired so, the record of run {run_id} still differs from its code in scope {scope}: {recorded}, got {got}."""

    run_id: UUID | str
    scope: str
    recorded: str
    got: str


class ScheduleExists(AlreadyExists):
    """Schedule {name} exists already in namespace {namespace}."""

    namespace: str
    name: str


class ScheduleNotFound(NotFound):
    """Schedule {name} does not exist in namespace {namespace}."""

    namespace: str
    name: str


class DefinitionNotFound(NotFound):
    """Definition {definition} does not exist in namespace {namespace}."""

    namespace: str
    definition: str


class DefinitionExists(AlreadyExists):
    """Definition {definition} has a version {version} already in namespace {namespace}, or another has its id."""

    namespace: str
    definition: str
    version: int


class DefinitionInUse(FailedPrecondition):
    """Version {version} of definition {definition} is followed by a run."""

    definition: str
    version: int


class DefinitionChanged(FailedPrecondition):
    """Definition {definition_id} was changed meanwhile: it has revision {revision}, not {expected}."""

    definition_id: UUID | str
    revision: int
    expected: int


class RunDataChanged(FailedPrecondition):
    """The data of run {run_id} was changed meanwhile: it has version {version}, not {expected}."""

    run_id: UUID | str
    version: int
    expected: int


class EventSeqExists(AlreadyExists):
    """Event {caller_seq} of run {run_id} exists already."""

    run_id: UUID | str
    caller_seq: int


class SignalRefused(FailedPrecondition):
    """Run {run_id} takes no signal {signal}: it has ended ({phase})."""

    run_id: UUID | str
    signal: str
    phase: str


class WorkerAmbiguous(FailedPrecondition):
    """Worker {worker_id} is registered in more than one namespace: name the one that is meant."""

    worker_id: str


class QueryFailed(FailedPrecondition):
    """Query {query} of run {run_id} failed: {type}: {problem}."""

    run_id: UUID | str
    query: str
    type: str
    problem: str


class NothingPublished(NotFound):
    """Nobody holds run {run_id} who could answer {query}, and its code has published nothing of that name."""

    run_id: UUID | str
    query: str


class UpdateUndecided(DeadlineExceeded):
    """Update {update_id} of run {run_id} may happen yet, or not (so far: {stage}): repeat it with the same id."""

    run_id: UUID | str
    update_id: str
    stage: str


class SessionNotFound(NotFound):
    """Session {session_id} does not exist: say hello for a new one."""

    session_id: UUID | str


class SessionExpired(FailedPrecondition):
    """Session {session_id} has expired and lost its leases: say hello for a new one."""

    session_id: UUID | str


class UserTaskNotFound(NotFound):
    """User task {task_id} does not exist."""

    task_id: UUID | str


class UserTaskExists(AlreadyExists):
    """User task {task_id} exists already."""

    task_id: UUID | str


class UserTaskStateConflict(FailedPrecondition):
    """User task {task_id} is {status} (claimed by {claimed_by!r}), which does not allow this."""

    task_id: UUID | str
    status: str
    claimed_by: str


class UserTaskAssignedElsewhere(PermissionDenied):
    """User task {task_id} is assigned to {assigned_user_id}, and nobody else may claim it."""

    task_id: UUID | str
    assigned_user_id: str


class UserTaskVersionConflict(Aborted):
    """User task {task_id} has version {version} by now, not {expected_version}: read it again."""

    task_id: UUID | str
    version: int
    expected_version: int


class LimitExceeded(ResourceExhausted):
    """Limit {limit} is {maximum}, and this would be {value}."""

    limit: str
    value: int
    maximum: int


class TooManyStreams(ResourceExhausted):
    """The key, or the connection where there is none, has {streams_per_key} streams open, and may have no more."""

    streams_per_key: int
    retry_seconds: float | None = 5.0


class QueueFull(ResourceExhausted):
    """The service has more work waiting than it may hold ({queue})."""

    queue: str
    retry_seconds: float | None = 0.5


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached."""


class ServerNotReady(Unavailable):
    """The server is not ready: {advice}."""

    advice: str


class OutcomeUnknown(Unavailable):
    """The connection was lost while the change was being committed: repeat the call, which is recognised."""


class CallTimedOut(DeadlineExceeded):
    """The call took longer than it may."""


class DatabaseContended(Unavailable):
    """The database is busy with others who change the same."""

    retry_seconds: float | None = 0.1


class MethodUnimplemented(Unimplemented):
    """Method {method} is declared and not served yet."""

    method: str


class InternalError(Internal):
    """The service failed. Its log knows more under error id {error_id}."""

    error_id: UUID
