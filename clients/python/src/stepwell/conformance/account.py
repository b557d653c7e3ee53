"""The tap's own account of a session: what was given, shown to be known, reported and ended.

It is kept by what went through the tap, and so knows nothing of what the service thinks. What a worker may never do is
noted as a violation at once, whatever case is under way.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

from google.rpc.error_details_pb2 import ErrorInfo

from stepwell.conformance.cases import Broken
from stepwell.v1.types_pb2 import STEP_STATE_COMPLETED, StepState
from stepwell.v1.workers_pb2 import (
    TASK_KIND_ACTIVITY,
    TASK_KIND_RUN,
    CapacityUpdate,
    ConnectRequest,
    ConnectResponse,
    Hello,
    Report,
    ReportResult,
    Task,
    TaskRef,
)

Key = tuple[str, int]

# What is on its way when a task is revoked, or a stream lost, comes within so many seconds.
GRACE_SECONDS = 1.5


@dataclasses.dataclass(slots=True)
class Grant:
    """A task that was given to the worker."""

    task: Task
    given: float
    is_known: bool = False
    is_waiting: bool = False
    owes_progress: bool = False
    ended: float | None = None
    end: str = ""
    said: tuple[int, int] | None = None
    """The report of its end, unless that was refused: its correlation, and the stream."""

    @property
    def is_run(self) -> bool:
        """Whether it is a run to advance."""
        return self.task.kind == TASK_KIND_RUN


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the worker was told to take at most."""

    activities: int
    runs: int
    resident: int


class Account:
    """See the module. `peak` is the most activities that were in work at once."""

    def __init__(self, limits: Limits) -> None:
        """Begins with nothing."""
        self.limits = limits
        self.grants: dict[Key, Grant] = {}
        self.unanswered: dict[int, tuple[Report, int]] = {}
        self.violations: list[Broken] = []
        self.session_id = ""
        self.max_items = 256
        self.peak = 0
        self._queues: tuple[str, ...] = ()

    # What is held

    def held(self) -> list[Grant]:
        """Gives all that the worker has."""
        return [grant for grant in self.grants.values() if grant.ended is None]

    def activities(self) -> list[Grant]:
        """Gives the activities in work: given, and not reported yet."""
        reported = self._reported()
        return [grant for grant in self.held() if not grant.is_run and key_of(grant.task.ref) not in reported]

    def runs(self) -> list[Grant]:
        """Gives the runs in work: given or told news, and not waiting."""
        reported = self._reported()
        return [
            grant
            for grant in self.held()
            if grant.is_run and not grant.is_waiting and key_of(grant.task.ref) not in reported
        ]

    def resident(self) -> list[Grant]:
        """Gives the runs that wait in the worker's memory."""
        return [grant for grant in self.held() if grant.is_waiting]

    def grant(self, *, job_id: str = "", run_id: str = "") -> Grant | None:
        """Gives the latest grant of a job, or of a run itself."""
        found = None
        for each in self.grants.values():
            task = each.task
            if (job_id and task.job_id == job_id) or (run_id and each.is_run and task.run_id == run_id):
                found = each
        return found

    def is_empty(self) -> bool:
        """Whether nothing is held and nothing unanswered."""
        return not self.held() and not self.unanswered

    def _reported(self) -> set[Key]:
        return {key_of(report.ref) for report, _ in self.unanswered.values()}

    def violated(self, expected: str, seen: str, section: str) -> None:
        """Notes what may never be."""
        self.violations.append(Broken(expected, seen, section))

    # What the service says

    def told(self, message: ConnectResponse) -> None:
        """Takes in what the worker was told."""
        now = time.monotonic()
        if message.HasField("welcome"):
            self._welcomed(message, now)
        for task in message.assigns:
            self._replaced(task, now)
            self.grants.setdefault(key_of(task.ref), Grant(task, now))
        for advance in message.advances:
            grant = self.grants.get(key_of(advance.ref))
            if grant is not None:
                grant.is_waiting, grant.owes_progress = False, True
        for revoke in message.revokes:
            self._end(key_of(revoke.ref), now, f"revoked: {revoke.reason}")
            if revoke.reason == "ACK_TIMEOUT":
                name = name_of(self.grants.get(key_of(revoke.ref)))
                self.violated("each task is acknowledged in time", f"{name} was not", "fields")
        for result in message.results:
            self._answered(result, now)
        self.peak = max(self.peak, len(self.activities()))
        if len(self.activities()) > self.limits.activities:
            seen = f"{len(self.activities())} in work at once"
            self.violated(f"at most {self.limits.activities} activities in work", seen, "capacity")

    def _replaced(self, task: Task, now: float) -> None:
        """A run that is given out anew is over under its older token, whether it was revoked or not."""
        if task.kind == TASK_KIND_RUN:
            for key in self.grants:
                if key[0] == task.ref.task_id and key[1] < task.ref.token:
                    self._end(key, now, "given out anew")

    def _welcomed(self, message: ConnectResponse, now: float) -> None:
        welcome = message.welcome
        self.session_id, self.max_items = welcome.session_id, welcome.max_items or 256
        if not welcome.resumed:
            self.lost()
            return
        kept = {key_of(ref) for ref in welcome.held} | self._reported()
        for key in [key for key, grant in self.grants.items() if grant.ended is None and key not in kept]:
            self._end(key, now, "not held after the resume")

    def lost(self) -> None:
        """The session is over, and all that it held with it."""
        now = time.monotonic()
        for key in self.grants:
            self._end(key, now, "the session was over")
        self.unanswered.clear()

    def _answered(self, result: ReportResult, now: float) -> None:
        found = self.unanswered.pop(result.correlation, None)
        if found is None:
            return
        report = found[0]
        key = key_of(report.ref)
        if result.status == ReportResult.STATUS_REFUSED:
            if (refused := self.grants.get(key)) is not None:
                refused.said = None
            if result.remedy == ReportResult.REMEDY_DROP:
                self._end(key, now, f"refused: {reason_of(result)}")
            return
        grant = self.grants.get(key)
        progress = report.progress if report.HasField("progress") else None
        if progress is None or progress.WhichOneof("end"):
            self._end(key, now, "its end was recorded")
        elif grant is not None and progress.waiting and not grant.owes_progress:
            grant.is_waiting = not any(_has_ended(step.state) for step in result.steps)

    def _end(self, key: Key, now: float, why: str) -> None:
        grant = self.grants.get(key)
        if grant is not None and grant.ended is None:
            grant.ended, grant.end, grant.is_waiting, grant.owes_progress = now, why, False, False

    # What the worker says

    def heard(self, message: ConnectRequest, link: int) -> None:
        """Takes in what the worker said."""
        if message.HasField("hello"):
            self._greeted(message.hello)
        if message.HasField("capacity"):
            self._stated(message.capacity)
        for field in ("acks", "reports", "heartbeats", "answers"):
            if len(getattr(message, field)) > self.max_items:
                seen = f"{len(getattr(message, field))} {field}"
                self.violated(f"at most {self.max_items} items in a field of a message", seen, "stream")
        for beat in message.heartbeats:
            self._know(beat.ref)
        for ack in message.acks:
            self._know(ack)
        for report in message.reports:
            self._reports(report, link)

    def _greeted(self, hello: Hello) -> None:
        self._stated(hello.capacity)
        if not hello.session_id:
            return
        named = {key_of(ref) for ref in hello.held}
        released = {key_of(report.ref) for report, _ in self.unanswered.values() if report.HasField("release")}
        for key, grant in self.grants.items():
            if grant.ended is None and grant.is_known and key not in named | released:
                expected = "a hello that resumes names in `held` all that the worker still has"
                self.violated(expected, f"it did not name {name_of(grant)}", "sessions")
            if grant.ended is not None and key in named and time.monotonic() - grant.ended > GRACE_SECONDS:
                expected = "a hello that resumes names in `held` nothing that is over"
                self.violated(expected, f"it named {name_of(grant)} ({grant.end})", "sessions")

    def _stated(self, update: CapacityUpdate) -> None:
        for entry in update.capacities:
            is_run = entry.kind == TASK_KIND_RUN
            most = self.limits.runs if is_run else self.limits.activities
            what = "runs" if is_run else "activities" if entry.kind == TASK_KIND_ACTIVITY else "of no kind"
            if entry.max_outstanding > most:
                self.violated(f"at most {most} {what} are asked for", f"{entry.max_outstanding}", "capacity")
            if entry.max_resident > self.limits.resident:
                expected = f"room for at most {self.limits.resident} resident runs is stated"
                self.violated(expected, f"{entry.max_resident}", "capacity")

    def _know(self, ref: TaskRef) -> None:
        grant = self.grants.get(key_of(ref))
        if grant is not None:
            grant.is_known = True

    def _reports(self, report: Report, link: int) -> None:
        self._know(report.ref)
        key = key_of(report.ref)
        grant = self.grants.get(key)
        before = self.unanswered.get(report.correlation)
        self.unanswered[report.correlation] = (report, link)
        if before is not None:
            self._repeats(report, before, link)
            return
        self._must_be_held(report, grant)
        if grant is not None and _is_end(report):
            if grant.said is not None and grant.said[1] == link:
                expected = "the end of a task is reported once"
                self.violated(expected, f"that of {name_of(grant)} came again, as {report.correlation}", "fields")
            grant.said = report.correlation, link
        if report.HasField("progress") and grant is not None:
            grant.owes_progress = False
            grant.is_waiting = False
            others = [each for each, _ in self.unanswered.values() if key_of(each.ref) == key and each is not report]
            if any(each.HasField("progress") for each in others):
                expected = "a run's next progress goes out after the last one was answered"
                self.violated(expected, f"a second one of {name_of(grant)} before", "fields")

    def _must_be_held(self, report: Report, grant: Grant | None) -> None:
        if grant is None:
            seen = f"one of {report.ref.task_id} under token {report.ref.token}, which it was not given"
            self.violated("reports are of tasks that the worker holds", seen, "fields")
        elif grant.ended is not None and time.monotonic() - grant.ended > GRACE_SECONDS:
            seen = f"{report.WhichOneof('outcome')} of {name_of(grant)} under token {report.ref.token} ({grant.end})"
            self.violated("nothing is reported of a task that is over for the worker", seen, "fields")

    def _repeats(self, report: Report, before: tuple[Report, int], link: int) -> None:
        former, former_link = before
        if former.SerializeToString(deterministic=True) != report.SerializeToString(deterministic=True):
            expected = "a correlation is unique among unanswered reports, which are repeated as they were"
            self.violated(expected, f"{report.correlation} names two different ones", "fields")
        elif former_link == link:
            expected = "an unanswered report is repeated only after a resume"
            self.violated(expected, f"{report.correlation} came twice on a stream", "sessions")


def key_of(ref: TaskRef) -> Key:
    """Gives what tells one grant from all others."""
    return ref.task_id, ref.token


def name_of(grant: Grant | None) -> str:
    """Names a grant for people."""
    if grant is None:
        return "a task"
    return f"{'run' if grant.is_run else 'activity'} {grant.task.type} ({grant.task.run_id or grant.task.job_id})"


def _is_end(report: Report) -> bool:
    return bool(report.progress.WhichOneof("end")) if report.HasField("progress") else True


def reason_of(result: ReportResult) -> str:
    """Gives the reason of a refusal."""
    return next((info.reason for info in _infos(result.error.details)), "")


def _infos(details: Iterable[object]) -> Iterable[ErrorInfo]:
    for detail in details:
        info = ErrorInfo()
        if detail.Unpack(info):  # type: ignore[attr-defined]
            yield info


def _has_ended(state: StepState.ValueType) -> bool:
    return state >= STEP_STATE_COMPLETED
