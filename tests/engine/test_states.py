"""Every command in every situation of a run: the documented effect, or the documented refusal and no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.code import COMPLETED, Code
from tests.engine.world import World

from stepwell_server import errors, refusals
from stepwell_server.engine.activities import CancelledActivity, CompleteActivity, FailActivity
from stepwell_server.engine.grants import GrantTask, ReturnTask
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.repairing import RepairRun
from stepwell_server.engine.repairs import Accept
from stepwell_server.engine.reported import End, NewWait, ScopeClaim, Successor
from stepwell_server.engine.run_calls import CallRun
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun, Steered, TerminateRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import EMPTY_HASH, MOVES, ORDER_CHANGED, TERMINAL, Phase
from stepwell_server.model.steps import ENDED, STEP_MOVES
from stepwell_server.model.tasks import Grant

# --- situations -------------------------------------------------------------------------------------------------------


def queued(world: World) -> int:
    return world.start()


def delayed(world: World) -> int:
    return world.start(delay_seconds=60)


def held(world: World) -> int:
    key = world.start()
    Code(world, key)
    return key


def resident(world: World) -> int:
    key = world.start()
    Code(world, key).run("w", NewWait("other"), waiting=True, resident=True)
    return key


def suspended(world: World) -> int:
    key = world.start()
    Code(world, key).run("w", NewWait("other"), waiting=True)
    return key


def queued_again(world: World) -> int:
    key = suspended(world)
    world.do(CancelRun(world.ref(key), "please"))
    return key


def paused(world: World) -> int:
    key = suspended(world)
    world.do(PauseRun(world.ref(key), "look"))
    return key


def order_changed(world: World) -> int:
    key = held(world)
    with pytest.raises(errors.StepOrderChanged):
        world.do(progress(world, key, claims=[ScopeClaim("", 1, EMPTY_HASH, closed=False)]))
    assert world.run(key).pause_reason == ORDER_CHANGED
    return key


def ended(phase: Phase) -> Callable[[World], int]:
    def end(world: World) -> int:
        key = world.start(timeout_seconds=60)
        if phase == Phase.TERMINATED:
            world.do(TerminateRun(world.ref(key), ""))
        elif phase == Phase.TIMED_OUT:
            world.advance(60)
            world.do(LookAtRun(world.ref(key)))
        else:
            Code(world, key).end(End(phase))
        assert world.closed(key).phase == phase
        return key

    return end


def continued(world: World) -> int:
    key = world.start(workflow_id="w")
    Code(world, key).end(End(Phase.COMPLETED, successor=Successor(NULL)))
    return key


OPEN: dict[str, Callable[[World], int]] = {
    each.__name__: each for each in (queued, delayed, held, resident, suspended, queued_again, paused, order_changed)
}
CLOSED: dict[str, Callable[[World], int]] = {
    **{phase.name.lower(): ended(phase) for phase in sorted(TERMINAL - {Phase.SKIPPED})},
    "continued": continued,
}

# --- commands ---------------------------------------------------------------------------------------------------------


def progress(
    world: World, key: int, token: int = 1, end: End | None = None, claims: list[ScopeClaim] | None = None
) -> ProgressRun:
    claims = [] if claims is None else claims
    return ProgressRun(
        world.ref(key), world.session, token, claims, [], [], waiting=end is None, end=end, resident=True
    )


COMMANDS: dict[str, Callable[[World, int], Any]] = {
    "cancel": lambda world, key: CancelRun(world.ref(key), "why"),
    "terminate": lambda world, key: TerminateRun(world.ref(key), "why"),
    "pause": lambda world, key: PauseRun(world.ref(key), "why"),
    "resume": lambda world, key: ResumeRun(world.ref(key), accept_order=False),
    "accept": lambda world, key: ResumeRun(world.ref(key), accept_order=True),
    "repair": lambda world, key: RepairRun(world.ref(key), (Accept(),), "why"),
    "signal": lambda world, key: SignalRun(world.ref(key), "s", NULL),
    "call": lambda world, key: CallRun(world.ref(key)),
    "grant": lambda world, key: GrantTask(world.ref(key), 0, world.session, "worker"),
    "progress": progress,
    "stale progress": lambda world, key: progress(world, key, token=7),
    "fail": lambda world, key: progress(world, key, end=End(Phase.FAILED, failure=Failure("no"))),
    "stale fail": lambda world, key: progress(world, key, token=7, end=End(Phase.FAILED, failure=Failure("no"))),
    "return": lambda world, key: ReturnTask(world.ref(key), 0, 1, world.session, counts=True, reason="lost"),
    "look": lambda world, key: LookAtRun(world.ref(key)),
    "fire": lambda world, key: FireStep(world.ref(key), 9),
    "complete activity": lambda world, key: CompleteActivity(world.ref(key), 9, world.session, 1, NULL),
    "fail activity": lambda world, key: FailActivity(world.ref(key), 9, world.session, 1, Failure("no")),
    "cancelled activity": lambda world, key: CancelledActivity(world.ref(key), 9, world.session, 1, NULL),
}

YES, NO = "yes", "no"
LOST, OVER, DEAF, STILL = errors.LeaseLost, errors.RunTerminal, errors.SignalRefused, errors.RunPaused
Expected = str | type[refusals.Refusal]

# What each command comes to; `open` where a situation is not named.
EFFECTS: dict[str, dict[str, Expected]] = {
    "cancel": {"open": YES, "queued_again": NO, "closed": NO},
    "terminate": {"open": YES, "closed": NO},
    "pause": {"open": YES, "paused": NO, "order_changed": NO, "closed": OVER},
    "resume": {"open": NO, "paused": YES, "order_changed": STILL, "closed": OVER},
    "accept": {"open": NO, "paused": YES, "order_changed": YES, "closed": OVER},
    "repair": {"open": errors.RunNotPaused, "paused": STILL, "order_changed": YES, "closed": OVER},
    "signal": {"open": YES, "closed": DEAF},
    "call": {"open": YES, "paused": STILL, "order_changed": STILL, "closed": OVER},
    "grant": {"open": YES, "held": NO, "resident": NO, "paused": NO, "order_changed": NO, "closed": NO},
    "progress": {"open": LOST, "held": YES, "resident": YES, "closed": LOST},
    "stale progress": {"open": LOST, "closed": LOST},
    "fail": {"open": LOST, "held": YES, "resident": YES, "closed": LOST, "failed": YES},
    "stale fail": {"open": LOST, "closed": LOST},
    "return": {"open": NO, "held": YES, "resident": YES, "closed": NO},
    "look": {"open": NO, "closed": NO},
    "fire": {"open": NO, "closed": NO},
    "complete activity": {"open": LOST, "closed": LOST},
    "fail activity": {"open": LOST, "closed": LOST},
    "cancelled activity": {"open": LOST, "closed": LOST},
}
# A task is asked for by whoever found it: these have none, and nobody asks.
NO_TASK = {("delayed", "grant"), ("suspended", "grant")}
CASES = [
    (situation, command)
    for situation in (*OPEN, *CLOSED)
    for command in COMMANDS
    if (situation, command) not in NO_TASK
]


def outcome(answer: object) -> Expected:
    """What a caller makes of an answer."""
    if isinstance(answer, refusals.Refusal):
        return type(answer)
    if isinstance(answer, Steered):
        return YES if answer.accepted else NO
    if isinstance(answer, Signalled | Grant):
        return YES
    return NO if answer is None or answer is False else YES


@pytest.mark.parametrize(("situation", "command"), CASES, ids=lambda each: each.replace(" ", "-"))
def test_a_command_in_a_situation(situation: str, command: str) -> None:
    """As the table says; what is refused or comes to nothing writes nothing."""
    world = World()
    key = (OPEN | CLOSED)[situation](world)
    before = world.store.closed_runs.get(key)
    (answer,) = world.batch(COMMANDS[command](world, key))
    effects = EFFECTS[command]
    expected = effects.get(situation, effects["open" if situation in OPEN else "closed"])
    assert outcome(answer) == expected
    changed = expected == YES and situation in OPEN
    assert (world.write is not None) is changed
    assert world.store.closed_runs.get(key) == before or (changed and before is None)
    world.check()


@pytest.mark.parametrize("situation", OPEN)
def test_every_open_situation_leads_somewhere(situation: str) -> None:
    """Whatever state a run is in, it can be brought to an end by its own code once it is resumed and cancelled."""
    world = World()
    key = OPEN[situation](world)
    world.advance(61)
    world.batch(LookAtRun(world.ref(key)), ResumeRun(world.ref(key), accept_order=True), CancelRun(world.ref(key), ""))
    if key in world.store.runs:
        if world.run(key).session_id is None:
            assert world.is_queued(key)
            assert world.grant(key) is not None
        code = Code(world, key, granted=True)
        code.counts[""], code.hashes[""] = world.run(key).order_count, world.run(key).order_hash
        code.end(COMPLETED)
    assert world.closed(key).phase in TERMINAL
    world.check()


def test_the_tables_of_moves_close() -> None:
    """What has ended moves no more, and every state leads to an end."""
    assert set(MOVES) == set(Phase)
    assert all(not MOVES[phase] for phase in TERMINAL)
    assert all(MOVES[phase] >= TERMINAL for phase in set(Phase) - TERMINAL)
    assert all(not STEP_MOVES[state] for state in ENDED)
    assert all(STEP_MOVES[state] & ENDED for state in set(STEP_MOVES) - ENDED)
