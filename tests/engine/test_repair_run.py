"""Repairing the record of a paused run: renaming and skipping steps, so that changed code fits what is recorded."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.code import COMPLETED, Code, activity, local
from tests.engine.mended import names_of, replayed, retry, rewind, steps_of
from tests.engine.repaired import ACCEPT, do, rename, repair, skip
from tests.engine.world import World

from stepwell_server import errors, refusals
from stepwell_server.engine.reported import Body, End, NewTimer
from stepwell_server.engine.runs import PauseRun, ResumeRun, TerminateRun
from stepwell_server.model.events import EventType, payload_of, unpack_attributes
from stepwell_server.model.order import MadeCall
from stepwell_server.model.runs import ORDER_CHANGED, Phase
from stepwell_server.model.steps import Kind, fingerprint_of


def recorded(*names: str, body: Body | None = None) -> tuple[World, int]:
    """A run that has recorded checkpoints of these names, in branches where a name says so: `1:a`; and is held."""
    world = World()
    key = world.start()
    code = Code(world, key)
    calls = [name.rpartition(":") for name in names]
    code.send(*(code.call(name, body or local(), scope) for scope, _, name in calls))
    return world, key


def trip(world: World, key: int, *names: str, at: int = 0, ends: bool = False) -> None:
    """The code, changed, makes these calls after `at` recorded ones of its own line, or ends there; it is paused."""
    code = Code(world, key, granted=world.run(key).session_id is not None)
    for step in [step for step in steps_of(world, key) if not step.scope][:at]:
        code.passed(code.call(step.name, local(), kind=Kind(step.kind)))
    fresh = [code.call(name, local()) for name in names]
    with pytest.raises(errors.StepOrderChanged):
        code.send(*fresh, end=COMPLETED if ends else None)
    assert world.run(key).pause_reason == ORDER_CHANGED


def pause(world: World, key: int) -> None:
    world.do(PauseRun(world.ref(key), "look"))


def lines(world: World, key: int) -> list[tuple[int, str, str, int]]:
    return [(step.ordinal, step.scope, step.name, step.occurrence) for step in steps_of(world, key)]


def ends(world: World, key: int) -> None:
    """The code that makes exactly the recorded calls ends well."""
    code = replayed(world, key)
    scopes = tuple({step.scope for step in steps_of(world, key)} - {""})
    code.send(end=COMPLETED, also=scopes, closed=True)
    assert world.closed(key).phase == Phase.COMPLETED
    world.check()


def test_a_renamed_step_is_answered_from_the_record() -> None:
    """It keeps its ordinal and what it came to; the run is due, and its code agrees, also the second time."""
    world, key = recorded("a", "b", "c")
    before = world.ended(key, 2)
    trip(world, key, "B", at=1)
    answer = do(world, key, rename("b", "B"), reason="was renamed")
    assert (answer.paused, answer.renamed_count, answer.skipped_count) == (False, 1, 0)
    assert [(step.ordinal, step.name, step.new_name) for step in answer.steps] == [(2, "b", "B")]
    assert world.run(key).pause_reason is None
    assert world.is_queued(key)
    assert world.ended(key, 2).end_event == before.end_event
    assert names_of(world, key) == ["a", "B", "c"]
    replayed(world, key).run("d", local())
    world.do(TerminateRun(world.ref(key), ""))


def test_history_shows_both_sides() -> None:
    """What each step was and is, what was skipped, and why."""
    world, key = recorded("a", "b", "c")
    trip(world, key, "B", at=1)
    do(world, key, rename("b", "B"), skip("c"), reason="tidied up")
    (event,) = (event for event in world.events(key) if event.type == EventType.RUN_REPAIRED)
    attributes = unpack_attributes(event.attributes)
    assert attributes.facts == {"renamed": "1", "skipped": "1", "reason": "tidied up"}
    body = payload_of(event.payload_kind, event.payload, attributes).body
    assert body == (
        b'[{"ordinal":2,"scope":"","kind":1,"name":"b","new_name":"B"},'
        b'{"ordinal":3,"scope":"","kind":1,"name":"c","skipped":true}]'
    )


def test_steps_of_a_name_are_counted_anew() -> None:
    """Renamed to a name that the branch has, a step takes its place among those, and the others move on."""
    world, key = recorded("a", "b", "a", "b", "1:a", "a")
    pause(world, key)
    do(world, key, rename(2, "a"))
    assert [place for place in lines(world, key) if not place[1]] == [
        (1, "", "a", 0),
        (2, "", "a", 1),
        (3, "", "a", 2),
        (4, "", "b", 0),
        (6, "", "a", 3),
    ]
    do(world, key, skip("a", occurrence=1), rename(4, "c"))
    assert lines(world, key) == [
        (1, "", "a", 0),
        (3, "", "a", 1),
        (4, "", "c", 0),
        (5, "1", "a", 0),
        (6, "", "a", 2),
    ]
    world.do(ResumeRun(world.ref(key), accept_order=False))
    ends(world, key)


@pytest.mark.parametrize("body", [local(), NewTimer(60)], ids=["ended", "open"])
def test_two_names_change_places(body: Body) -> None:
    """All repairs speak of the record as it was."""
    world, key = recorded("a", "b", "b", body=body)
    pause(world, key)
    do(world, key, rename(None, "b", every="a"), rename(None, "a", every="b"))
    assert lines(world, key) == [(1, "", "b", 0), (2, "", "a", 0), (3, "", "a", 1)]
    do(world, key, rename(3, "b"))
    assert lines(world, key)[2] == (3, "", "b", 1)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    ends(world, key)


def test_every_one_of_a_name_in_all_branches() -> None:
    """Of one kind only, where one is named."""
    world, key = recorded("a", "1:a", "2:b", "2:a")
    code = Code(world, key, granted=True)
    code.passed(code.call("a", local()))
    code.run("a", NewTimer(60))
    pause(world, key)
    answer = do(world, key, rename(None, "z", every="a", kind=Kind.LOCAL))
    assert [step.ordinal for step in answer.steps] == [1, 2, 4]
    assert names_of(world, key) == ["z", "z", "b", "z", "a"]
    with pytest.raises(errors.StepNotFound):
        do(world, key, rename(None, "y", every="z", kind=Kind.ACTIVITY))
    answer = do(world, key, skip(None, every="z"))
    assert (answer.skipped_count, names_of(world, key)) == (3, ["b", "a"])
    world.do(ResumeRun(world.ref(key), accept_order=False))
    ends(world, key)


def test_a_fingerprint_is_replaced_or_dropped() -> None:
    """The hash follows; a rename leaves it."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(*(code.call(name, local(), fingerprint=b"1") for name in "abc"))
    pause(world, key)
    do(world, key, rename(1, "A"), rename(2, fingerprint=b"2"), rename(3, "C", b""))
    assert [fingerprint_of(step) for step in steps_of(world, key)] == [b"1", b"2", b""]
    world.do(ResumeRun(world.ref(key), accept_order=False))
    code = Code(world, key)
    for name, fingerprint in (("A", b"1"), ("b", b"2"), ("C", b"")):
        code.passed(code.call(name, local(), fingerprint=fingerprint))
    code.send(end=COMPLETED)
    assert world.closed(key).phase == Phase.COMPLETED


WRONG: list[tuple[tuple[Any, ...], type[refusals.Refusal], str]] = [
    ((rename("x", "y"),), errors.StepNotFound, "x"),
    ((rename("a", "y", occurrence=1),), errors.StepNotFound, "a"),
    ((skip(9),), errors.StepNotFound, "9"),
    ((skip("a", kind=Kind.TIMER),), errors.StepNotFound, "a"),
    ((rename("a", "a"),), errors.InvalidField, r"repairs\[0\].rename changes nothing"),
    ((rename("a", fingerprint=b""),), errors.InvalidField, r"repairs\[0\].rename changes nothing"),
    ((rename("a", "x"), skip(1)), errors.InvalidField, r"repairs\[1\] means step 1, as repairs\[0\] does"),
    ((skip(6),), errors.InvalidField, "branch 0"),
    ((rename(4, "l"),), errors.InvalidField, "with one key"),
    ((rename("a", "__cancelled"),), errors.InvalidField, "a mark that workers make"),
]


@pytest.mark.parametrize(("repairs", "refusal", "words"), WRONG)
def test_a_wrong_repair_is_refused(repairs: tuple[Any, ...], refusal: type[refusals.Refusal], words: str) -> None:
    """Steps that are not there, repairs that contradict each other or come to nothing: the whole request."""
    world, key = recorded("a", "b", "c")
    code = Code(world, key, granted=True)
    code.send(*(code.call(name, local(), "1", key="k") for name in "kl"))
    code.send(code.accept("u"))
    pause(world, key)
    with pytest.raises(refusal, match=words):
        do(world, key, *repairs, rename("b", "B"))
    assert names_of(world, key)[:3] == ["a", "b", "c"]


def test_what_is_known_of_the_code_must_agree() -> None:
    """Both sides are shown; nothing is changed. Accepting says that the code was mended, too."""
    world, key = recorded("a", "b", "c")
    trip(world, key, "B", "d", at=1)
    with pytest.raises(errors.RepairDisagrees) as refused:
        do(world, key, rename("c", "C"))
    told = refused.value.metadata
    assert (told["scope"], told["recorded"], told["got"]) == (
        "(root)",
        "after 1 calls LOCAL b, LOCAL C",
        "LOCAL B, LOCAL d",
    )
    with pytest.raises(errors.RepairDisagrees, match="after 2 calls LOCAL c, got LOCAL d"):
        do(world, key, rename("b", "B"))
    with pytest.raises(errors.RepairDisagrees, match="after 0 calls LOCAL b, LOCAL c, got LOCAL a"):
        do(world, key, skip("a"))
    assert names_of(world, key) == ["a", "b", "c"]
    do(world, key, rename("c", "C"), ACCEPT)
    trip(world, key, "B", at=1)
    do(world, key, rename("b", "B"), skip("C"))
    ends(world, key)


def test_code_that_ended_its_branch_has_no_further_calls() -> None:
    """All that is recorded beyond is skipped, or the repair does not agree."""
    world, key = recorded("a", "b", "c")
    trip(world, key, at=1, ends=True)
    with pytest.raises(errors.RepairDisagrees, match="LOCAL c, got no further call"):
        do(world, key, skip("b"))
    do(world, key, skip("b"), skip("c"))
    ends(world, key)


def test_nothing_is_held_against_what_is_not_known() -> None:
    """A worker that does not say where its replay went another way: the repair is tried, and the run paused again."""
    world, key = recorded("a", "b", "c")
    code = Code(world, key, granted=True)
    for name in ("a", "B", "c"):
        code.passed(code.call(name, local()))
    with pytest.raises(errors.StepOrderChanged):
        code.run("d", local())
    do(world, key, rename("c", "C"))
    trip(world, key, "B", at=1)
    do(world, key, rename("b", "B"), rename("C", "c"))
    ends(world, key)


def test_branches_that_the_code_lost_are_skipped_all_together() -> None:
    """Each difference that the pause shows must be gone."""
    world, key = recorded("a", "1:b", "2:c")
    code = Code(world, key, granted=True)
    code.passed(code.call("a", local()))
    message = code.message(end=COMPLETED, also=("1", "2"), closed=True)
    with pytest.raises(errors.StepOrderChanged):
        world.do(message)
    with pytest.raises(errors.RepairDisagrees, match="in scope 2"):
        do(world, key, skip("b", scope="1"))
    do(world, key, skip("b", scope="1"), skip("c", scope="2"))
    assert world.store.scopes[key, "1"].order_count == 0
    ends(world, key)


def test_only_a_paused_run_is_repaired() -> None:
    """One that a person paused stays so, and has nothing to accept; others may be at work just now."""
    world, key = recorded("a", "b")
    with pytest.raises(errors.RunNotPaused):
        do(world, key, rename("a", "A"))
    pause(world, key)
    with pytest.raises(errors.RunPaused, match="look"):
        do(world, key, rename("a", "A"), ACCEPT)
    answer = do(world, key, rename("a", "A"))
    assert answer.paused
    assert (world.run(key).pause_reason, world.is_queued(key)) == ("look", False)
    world.do(TerminateRun(world.ref(key), ""))
    with pytest.raises(errors.RunTerminal):
        do(world, key, skip("b"))
    driven = world.start(driven=True)
    with pytest.raises(errors.RunDriven):
        do(world, driven, skip("b"))


def test_accepting_alone_is_what_resuming_with_it_is() -> None:
    """The short form and the long one."""
    world, key = recorded("a", "b")
    trip(world, key, "B", at=1)
    answer = do(world, key, ACCEPT)
    assert (answer.steps, world.is_queued(key)) == ((), True)
    trip(world, key, "B", at=1)
    world.do(ResumeRun(world.ref(key), accept_order=True))
    ends(world, key)


def test_a_repaired_run_is_rewound_and_retried() -> None:
    """The record is one again: what follows counts from what is left."""
    world, key = recorded("a", "b", "c", "d")
    trip(world, key, "B", at=1)
    do(world, key, rename("b", "B"), skip("c"))
    world.do(rewind(world, key, name="d"))
    code = replayed(world, key)
    code.run("e", local())
    code.send(end=End(Phase.FAILED))
    world.do(retry(world, key))
    assert names_of(world, key) == ["a", "B", "e"]
    pause(world, key)
    do(world, key, rename("e", "E"))
    world.do(rewind(world, key, name="E"))
    world.do(ResumeRun(world.ref(key), accept_order=False))
    ends(world, key)


def test_in_one_batch_with_what_pauses_and_what_goes_on() -> None:
    """The pause is of this very batch, and so is the next look at the run."""
    world, key = recorded("a")
    code = Code(world, key, granted=True)
    good = code.message(code.call("a", local(), "1"))
    bad = code.message(code.call("b", activity(), "1"), code.call("x", local()))
    answers = world.batch(good, bad, repair(world, key, skip("a"), ACCEPT), rewind(world, key, name="a", scope="1"))
    assert [isinstance(answer, refusals.Refusal) for answer in answers] == [False, True, False, False]
    assert names_of(world, key) == []
    ends(world, key)


def test_differences_know_only_names() -> None:
    """A worker's word of where its code left the record is what counts, as for what people are shown."""
    world, key = recorded("a", "b", "c")
    code = Code(world, key, granted=True)
    for name in ("a", "x"):
        code.passed(code.call(name, local()))
    message = code.message(code.call("c", local()), code.call("d", local()))
    claim = message.scopes[0]
    message.scopes[0] = type(claim)("", 2, claim.hash, closed=False, place=1, made=(MadeCall(Kind.LOCAL, "x"),))
    with pytest.raises(errors.StepOrderChanged):
        world.do(message)
    with pytest.raises(errors.RepairDisagrees):
        do(world, key, skip("b"))
    do(world, key, rename("b", "x"))
    ends(world, key)
