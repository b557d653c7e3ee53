"""Races as any worker records them: the markers, what a replay is told of them, and what is refused."""

from __future__ import annotations

import pytest
from tests.stream.asking import facts_of
from tests.stream.code import KINDS
from tests.stream.kit import ACCEPTED, DUPLICATE, REFUSED, RUN, Replica, capacity, payload
from tests.stream.wire import Wire, wire

from stepwell.v1 import workers_pb2
from stepwell_server.engine.order import chain

ACTIVITY = {"activity": workers_pb2.ActivityStep(type="elsewhere", task_queue="nobody")}


class Branches:
    """The code of a run that races, by hand: it counts and hashes the calls of each branch."""

    def __init__(self, stream: Wire, task: workers_pb2.Task) -> None:
        self.stream = stream
        self.ref = task.ref
        self.states: dict[str, workers_pb2.ScopeState] = {}
        self.calls = 0

    def progress(self, *steps: workers_pb2.NewStep, **fields: object) -> workers_pb2.Progress:
        progress = workers_pb2.Progress(steps=steps, **fields)  # type: ignore[arg-type]
        ends = progress.WhichOneof("end") is not None
        for scope in dict.fromkeys([*(step.scope for step in steps), *([""] if ends else [])]):
            state = self.states.setdefault(scope, workers_pb2.ScopeState(scope=scope, hash=bytes(8)))
            progress.scopes.add().CopyFrom(state)
        for step in steps:
            self.replay(step.scope, KINDS[step.WhichOneof("kind") or ""], step.name)
        if progress.HasField("complete"):
            progress.calls = self.calls
        return progress

    def replay(self, scope: str, kind: int, name: str) -> None:
        state = self.states.setdefault(scope, workers_pb2.ScopeState(scope=scope, hash=bytes(8)))
        state.count += 1
        state.hash = chain(state.hash, kind, name)
        self.calls += 1

    async def tell(self, progress: workers_pb2.Progress) -> workers_pb2.ReportResult:
        return await self.stream.report(self.ref, progress=progress)


def won(first: int, winner: int, scope: str = "") -> workers_pb2.NewStep:
    race = workers_pb2.RaceStep(winner=winner)
    return workers_pb2.NewStep(scope=scope, name="__race", key=str(first), race=race)


def lost(scope: str, path: str) -> workers_pb2.NewStep:
    marker = workers_pb2.MarkerStep(value=payload("wait"))
    return workers_pb2.NewStep(scope=scope, name="__lost", key=path, marker=marker)


async def test_a_race_by_hand(one: Replica) -> None:
    """Who won is told with the record; the loser's step is given up in the progress that says so; a repeat is known."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1, resident=1)) as stream:
        code = Branches(stream, await stream.task(RUN))
        both = [workers_pb2.NewStep(scope=scope, name="work", **ACTIVITY) for scope in ("1", "2")]  # type: ignore[arg-type]
        assert (await code.tell(code.progress(*both))).status == ACCEPTED
        decided = code.progress(won(1, 2), lost("1", "1"), cancel_ordinals=[1])
        assert (await code.tell(decided)).status == ACCEPTED
        assert (await code.tell(decided)).status == DUPLICATE
        await stream.report(code.ref, release=workers_pb2.ReleaseTask(reason="again"))
        again = await stream.task(RUN)
        steps = [(step.scope, step.name, step.key, step.winner) for step in again.steps]
        assert steps == [("1", "work", "", 0), ("2", "work", "", 0), ("", "__race", "1", 2), ("1", "__lost", "1", 0)]
        code = Branches(stream, again)
        for step in again.steps:
            code.replay(step.scope, step.kind, step.name)
        end = code.progress(complete=workers_pb2.CompleteRun())
        assert (await code.tell(end)).status == ACCEPTED
    assert (await one.run(run_id)).phase == 4


async def test_losers_count_in_the_order_check(one: Replica) -> None:
    """A replay that leaves a loser out has changed."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Branches(stream, await stream.task(RUN))
        steps = [workers_pb2.NewStep(scope="1", name="work", **ACTIVITY), won(1, 2), lost("1", "1")]  # type: ignore[arg-type]
        assert (await code.tell(code.progress(*steps))).status == ACCEPTED
        end = code.progress(complete=workers_pb2.CompleteRun())
        end.calls -= 2
        result = await code.tell(end)
        assert (result.status, facts_of(result.error)[0]) == (REFUSED, "STEP_ORDER_CHANGED")
    assert (await one.run(run_id)).pause.reason == "ORDER_CHANGED"


async def test_a_worker_that_sees_the_code_stray_is_believed(one: Replica) -> None:
    """Though the branch is behind its record, where count and hash say nothing: such code may wait for ever."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1, resident=0)) as stream:
        code = Branches(stream, await stream.task(RUN))
        locals_ = [
            workers_pb2.NewStep(scope="1", name=name, local=workers_pb2.LocalStep(result=payload(1))) for name in "ab"
        ]
        assert (await code.tell(code.progress(*locals_))).status == ACCEPTED
        behind = workers_pb2.ScopeState(scope="1", count=1, hash=chain(bytes(8), 2, "a"))
        assert (await code.tell(workers_pb2.Progress(scopes=[behind], waiting=False))).status == ACCEPTED
        behind.difference.calls.add(kind=2, name="a")
        result = await code.tell(workers_pb2.Progress(scopes=[behind], waiting=True))
        assert (result.status, facts_of(result.error)[0]) == (REFUSED, "STEP_ORDER_CHANGED")
    (difference,) = (await one.run(run_id)).pause.differences
    assert difference.scope == "1"
    assert difference.agreeing == 0


@pytest.mark.parametrize(
    ("field", "step"),
    [
        ("race.winner", {"name": "__race", "key": "1", "race": {}}),
        ("race.winner", {"name": "__race", "key": "1", "race": {"winner": 1_000_000}}),
        ("key", {"name": "__race", "race": {"winner": 1}}),
        ("key", {"name": "__race", "key": "0", "race": {"winner": 1}}),
        ("key", {"name": "__race", "key": "3", "race": {"winner": 2}}),
        ("key", {"name": "__race", "key": "1/2", "race": {"winner": 2}}),
        ("key", {"name": "__race", "key": "1", "occurrence": 1, "race": {"winner": 2}}),
        ("key", {"name": "race", "key": "1", "race": {"winner": 2}}),
        ("name", {"name": "__race", "key": "1", "marker": {}}),
        ("key", {"scope": "1", "name": "__lost", "marker": {}}),
        ("key", {"scope": "1", "name": "__lost", "key": "2", "marker": {}}),
        ("key", {"scope": "1", "name": "__lost", "key": "1/1", "marker": {}}),
        ("key", {"scope": "11", "name": "__lost", "key": "1", "marker": {}}),
        ("key", {"scope": "1", "name": "__lost", "key": "1", "occurrence": 1, "marker": {}}),
    ],
)
async def test_markers_of_races_are_well_formed(one: Replica, field: str, step: dict[str, object]) -> None:
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        new = workers_pb2.NewStep(**step)  # type: ignore[arg-type]
        scopes = [workers_pb2.ScopeState(scope=new.scope, hash=bytes(8))]
        result = await stream.report(task.ref, progress=workers_pb2.Progress(scopes=scopes, steps=[new]))
        reason, facts = facts_of(result.error)
        assert (result.status, reason) == (REFUSED, "INVALID_FIELD")
        assert facts["field"].endswith(f"steps[0].{field}")
