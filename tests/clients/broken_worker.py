"""The Python conformance worker with one fault, which it is told by its first argument: the kit must notice."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepwell import _connection, _scopes
from stepwell._activities import Activities, Running
from stepwell._connection import Connection
from stepwell._outbox import Outbox
from stepwell._queries import Queries
from stepwell._roster import Runs, Seat
from stepwell._stream import Stream
from stepwell.v1.workers_pb2 import Advance, Hello, ReportResult, TaskRef
from stepwell.worker import Worker

WORKER = Path(__file__).resolve().parents[2] / "clients/python/conformance/worker.py"
FAULTS: dict[str, tuple[str, Callable[[], None]]] = {}
"""By name: the case that must notice, and what breaks the worker."""


def fault(case: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def declare(breaks: Callable[[], None]) -> Callable[[], None]:
        FAULTS[breaks.__name__] = (case, breaks)
        return breaks

    return declare


def nothing(*_: object, **__: object) -> None:
    return None


@fault("acknowledgement")
def never_acknowledges() -> None:
    Outbox.acknowledge = nothing  # type: ignore[method-assign]


@fault("assignment")
def asks_for_nothing() -> None:
    greeting = Connection._greeting

    def modest(self: Connection) -> Hello:
        hello = greeting(self)
        for entry in hello.capacity.capacities:
            entry.max_outstanding = 0
        return hello

    Connection._greeting = modest  # type: ignore[method-assign]


@fault("capacity-of-activities")
def takes_too_much() -> None:
    greeting = Connection._greeting

    def greedy(self: Connection) -> Hello:
        hello = greeting(self)
        for entry in hello.capacity.capacities:
            entry.max_outstanding += 5
        return hello

    Connection._greeting = greedy  # type: ignore[method-assign]


@fault("revoked-activity")
def reports_what_was_revoked() -> None:
    Activities.revoke = nothing  # type: ignore[method-assign]


@fault("resume")
def resumes_with_nothing() -> None:
    greeting = Connection._greeting

    def forgetful(self: Connection) -> Hello:
        hello = greeting(self)
        del hello.held[:]
        return hello

    Connection._greeting = forgetful  # type: ignore[method-assign]


@fault("resume")
def keeps_what_has_ended() -> None:
    Activities._remove = nothing  # type: ignore[method-assign]


@fault("ended-run")
def keeps_runs_that_have_ended() -> None:
    Runs.revoke = nothing  # type: ignore[method-assign]


@fault("eviction")
def keeps_runs_that_are_evicted() -> None:
    Runs.revoke = nothing  # type: ignore[method-assign]


@fault("resume")
def begins_anew_when_resumed() -> None:
    _begin_anew()


@fault("rotate")
def begins_anew_when_moved() -> None:
    _begin_anew()


def _begin_anew() -> None:
    """What was at work begins once more beside itself; whatever is done first is reported."""
    resumed = Worker.resumed

    def anew(self: Worker, still_held: set[str]) -> None:
        resumed(self, still_held)
        for running in list(self._performing.running.values()):
            self._performing.running.pop(running.ref.task_id)
            self._performing.assign(running.given)
            running.is_gone = True

    Worker.resumed = anew  # type: ignore[method-assign]


@fault("resume-with-runs")
def resumes_without_its_runs() -> None:
    def only_activities(self: Worker) -> list[TaskRef]:
        return [running.ref for running in self._performing.running.values()]

    Worker.held = only_activities  # type: ignore[method-assign]


@fault("cancellation-of-an-activity")
def ignores_cancellations() -> None:
    Activities.cancel = nothing  # type: ignore[method-assign]


@fault("cancellation-by-heartbeat")
def ignores_answers_to_heartbeats() -> None:
    Activities.beat_answered = nothing  # type: ignore[method-assign]


@fault("one-progress-at-a-time")
def sends_a_second_progress() -> None:
    report = Runs.report

    def twice(self: Runs, run: Any, progress: Any) -> None:
        report(self, run, progress)
        report(self, run, progress)

    Runs.report = twice  # type: ignore[method-assign]


@fault("duplicate-assign")
def begins_a_grant_twice() -> None:
    assign = Activities.assign

    def again(self: Activities, task: Any) -> None:
        self.running.pop(task.ref.task_id, None)
        assign(self, task)

    Activities.assign = again  # type: ignore[method-assign]


@fault("duplicate-assign-of-a-run")
def begins_a_run_twice() -> None:
    assign = Runs.assign

    def again(self: Runs, task: Any) -> None:
        self.seats.pop(task.ref.task_id, None)
        assign(self, task)

    Runs.assign = again  # type: ignore[method-assign]


@fault("lost-report")
def forgets_reports() -> None:
    resume = Outbox.resume

    def forget(self: Outbox) -> None:
        self._unanswered.clear()
        resume(self)

    Outbox.resume = forget  # type: ignore[method-assign]


@fault("expired-session")
def keeps_what_it_held() -> None:
    Worker.session_lost = nothing  # type: ignore[method-assign]


@fault("patience")
def hammers_at_the_door() -> None:
    _connection.BACKOFF_FIRST = 0.001
    _connection._MOST_DOUBLINGS = 0


@fault("stale-words")
def listens_to_older_tokens() -> None:
    cancel = Activities.cancel

    def any_token(self: Activities, ref: TaskRef) -> None:
        running = self.running.get(ref.task_id)
        if running is not None:
            cancel(self, running.ref)

    Activities.cancel = any_token  # type: ignore[method-assign]


@fault("stale-advance")
def takes_stale_news() -> None:
    def any_token(self: Runs, ref: TaskRef) -> Seat | None:
        return self.seats.get(ref.task_id)

    Runs._seat = any_token  # type: ignore[method-assign]


@fault("signs-of-life")
def is_silent() -> None:
    async def asleep(self: Stream, heartbeat_interval: float) -> None:
        await asyncio.sleep(3600)

    Stream._watch = asleep  # type: ignore[method-assign]


@fault("heartbeat-details")
def forgets_details() -> None:
    Activities.details_of = nothing  # type: ignore[method-assign]


@fault("few-items")
def sends_too_many_items() -> None:
    Outbox.max_items = property(lambda self: 256, nothing)  # type: ignore[assignment]


@fault("rotate")
def does_not_move() -> None:
    Connection.rotate = nothing  # type: ignore[method-assign]


@fault("queries")
def answers_no_queries() -> None:
    Queries.ask = nothing  # type: ignore[method-assign]


@fault("repeated-advance")
def stays_silent_after_news() -> None:
    advance = Runs.advance

    def deaf(self: Runs, news: Advance) -> None:
        if not news.steps:
            advance(self, news)

    Runs.advance = deaf  # type: ignore[method-assign]


@fault("refused-for-now")
def repeats_nothing() -> None:
    Outbox._repeat = nothing  # type: ignore[method-assign]


@fault("refused-for-now")
def repeats_at_once() -> None:
    _repeat_at_once()


@fault("progress-refused-for-now")
def repeats_progress_at_once() -> None:
    _repeat_at_once()


def _repeat_at_once() -> None:
    answer = Outbox.answer

    def hurried(self: Outbox, result: ReportResult) -> None:
        result.ClearField("repeat_delay")
        answer(self, result)

    Outbox.answer = hurried  # type: ignore[method-assign]


@fault("assignment")
def reports_each_end_twice() -> None:
    report = Activities._report

    def twice(self: Activities, running: Running, outcome: dict[str, Any]) -> None:
        report(self, running, outcome)
        report(self, running, outcome)

    Activities._report = twice  # type: ignore[method-assign]


@fault("taken-back")
def repeats_whatever_is_refused() -> None:
    ended = Activities.ended

    def again(self: Activities, running: Running, result: Any) -> None:
        if result.status == ReportResult.STATUS_REFUSED:
            self._report(running, running.outcome)
        else:
            ended(self, running, result)

    Activities.ended = again  # type: ignore[method-assign]


@fault("progress-refused-for-ever")
def drops_runs_that_are_at_fault() -> None:
    def drop(self: Runs, run: Any, result: Any) -> None:
        self.forget(run)

    Runs.refused = drop  # type: ignore[method-assign]


@fault("refused-for-ever")
def gives_up_when_refused() -> None:
    def drop(self: Activities, running: Running, result: Any) -> None:
        self._remove(running)

    Activities.ended = drop  # type: ignore[method-assign]


@fault("drain")
def leaves_at_once() -> None:
    async def leave(self: Worker, connected: Any) -> None:
        raise SystemExit(3)

    Worker._drain = leave  # type: ignore[method-assign]


@fault("drain-of-runs")
def keeps_its_runs() -> None:
    Runs.leave = nothing  # type: ignore[method-assign]
    Runs.release_all = nothing  # type: ignore[method-assign]
    Runs.all_left = _at_once  # type: ignore[method-assign, assignment]


async def _at_once(_: Runs) -> None:
    return None


@fault("replays")
def replays_in_another_order() -> None:
    chained = _scopes.chained

    def other(previous: bytes, kind: int, name: str, fingerprint: bytes = b"") -> bytes:
        return chained(previous, kind, name[::-1], fingerprint)

    _scopes.chained = other


if __name__ == "__main__":
    FAULTS[sys.argv[1]][1]()
    found = importlib.util.spec_from_file_location("conformance_worker", WORKER)
    assert found is not None
    assert found.loader is not None
    program = importlib.util.module_from_spec(found)
    found.loader.exec_module(program)
    asyncio.run(program.main())
