"""A worker's side of a run: counts and hashes the calls of each branch, and makes progress of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.engine.world import World

from stepwell_server import refusals
from stepwell_server.engine.activities import CompleteActivity, NewActivity
from stepwell_server.engine.order import chain
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.engine.reported import (
    AcceptedUpdate,
    Body,
    Checkpoint,
    End,
    NewChild,
    NewStep,
    NewTimer,
    NewTopicWait,
    NewUserTask,
    NewWait,
    ScopeClaim,
    SetAttributes,
    UpdateOutcome,
    WonRace,
)
from stepwell_server.model.payloads import JSON, NULL, Payload
from stepwell_server.model.run_calls import ACCEPTANCE, OUTCOME, UPDATES, Rejection
from stepwell_server.model.runs import EMPTY_HASH, Phase
from stepwell_server.model.steps import Kind
from stepwell_server.model.tasks import Grant

KIND_OF = {
    Checkpoint: Kind.LOCAL,
    NewActivity: Kind.ACTIVITY,
    NewTimer: Kind.TIMER,
    NewWait: Kind.WAIT,
    NewTopicWait: Kind.WAIT,
    NewChild: Kind.CHILD,
    NewUserTask: Kind.USER_TASK,
    AcceptedUpdate: Kind.MARKER,
    UpdateOutcome: Kind.MARKER,
    WonRace: Kind.MARKER,
    SetAttributes: Kind.MARKER,
}
COMPLETED = End(Phase.COMPLETED)


def json(text: str) -> Payload:
    return Payload(JSON, text.encode())


def local(text: str = "1") -> Checkpoint:
    return Checkpoint(json(text))


def activity(**fields: Any) -> NewActivity:
    return NewActivity(**{"type": "act", **fields})


class Code:
    """One grant of a run, and the code that runs under it."""

    def __init__(self, world: World, key: int, *, granted: bool = False) -> None:
        self.world = world
        self.key = key
        if not granted:
            assert world.grant(key) is not None
        self.token = world.run(key).grants
        self.session = world.session
        self.build_id = ""
        self.counts: Counter[str] = Counter()
        self.hashes: dict[str, bytes] = {}
        self._occurrences: Counter[tuple[str, str]] = Counter()

    def call(  # noqa: PLR0917 - what a call is
        self,
        name: str,
        body: Body,
        scope: str = "",
        key: str = "",
        kind: Kind | None = None,
        fingerprint: bytes = b"",
    ) -> NewStep:
        """A call as the code makes it; a key takes the place of the occurrence."""
        occurrence = 0 if key else self._occurrences[scope, name]
        self._occurrences[scope, name] += 1
        return NewStep(scope, name, occurrence, key, fingerprint, kind or KIND_OF[type(body)], body)

    def accept(self, update_id: str, name: str = "add", text: str = "1") -> NewStep:
        return self.call(ACCEPTANCE, AcceptedUpdate(name, json(text), 3), scope=UPDATES, key=update_id)

    def outcome(self, update_id: str, text: str = "1") -> NewStep:
        return self.call(OUTCOME, UpdateOutcome(json(text)), scope=UPDATES, key=update_id)

    def passed(self, step: NewStep) -> None:
        """Counts a call that was made: recorded now, or answered from the record."""
        before = self.hashes.get(step.scope, EMPTY_HASH)
        self.hashes[step.scope] = chain(before, step.kind, step.name, step.fingerprint)
        self.counts[step.scope] += 1

    def claims(self, scopes: set[str], *, closed: bool = False) -> list[ScopeClaim]:
        return [
            ScopeClaim(path, self.counts[path], self.hashes.get(path, EMPTY_HASH), closed and bool(path))
            for path in sorted(scopes)
        ]

    def message(
        self,
        *steps: NewStep,
        waiting: bool = False,
        end: End | None = None,
        cancels: tuple[int, ...] = (),
        stops: tuple[int, ...] = (),
        resident: bool = False,
        also: tuple[str, ...] = (),
        closed: bool = False,
        published: dict[str, Payload] | None = None,
        rejections: list[Rejection] | None = None,
    ) -> ProgressRun:
        """A progress with these new steps; the calls count as made from here on."""
        scopes = {step.scope for step in steps} | set(also) | ({""} if end is not None else set())
        made = ProgressRun(
            self.world.ref(self.key),
            self.session,
            self.token,
            self.claims(scopes, closed=closed),
            list(steps),
            list(cancels),
            waiting,
            end,
            resident,
            sum(self.counts.values()) + len(steps) if end is not None and end.phase == Phase.COMPLETED else None,
            self.build_id,
            published or {},
            rejections or [],
            list(stops),
        )
        for step in steps:
            self.passed(step)
        return made

    def send(self, *steps: NewStep, **fields: Any) -> ProgressAnswer:
        before = (self.counts.copy(), dict(self.hashes))
        try:
            answer = self.world.do(self.message(*steps, **fields))
        except refusals.Refusal:
            self.counts, self.hashes = before
            raise
        assert isinstance(answer, ProgressAnswer)
        return answer

    def run(self, name: str, body: Body, **fields: Any) -> int:
        """Records one step and answers its ordinal."""
        return self.send(self.call(name, body), **fields).ordinals[0]

    def end(self, end: End = COMPLETED) -> ProgressAnswer:
        return self.send(end=end)


def complete(world: World, grant: Grant, payload: Payload = NULL) -> CompleteActivity:
    """The report of a granted activity that it is done."""
    step = grant.step
    assert step is not None
    return CompleteActivity(world.ref(step.run_key), step.ordinal, grant.session_id, step.grants, payload)
