"""The verdict on made-up ledgers, records and faults: what is wrong is found, what a fault explains is let be."""

from __future__ import annotations

import dataclasses

import pytest

from stepwell.torture.absences import absences_of
from stepwell.torture.faults import Fault, Kind
from stepwell.torture.ledger import Line
from stepwell.torture.load import Start
from stepwell.torture.plan import Times
from stepwell.torture.proxy import Link
from stepwell.torture.recorded import Outcome, Recorded, flaws_of
from stepwell.torture.verdict import Rule, Verdict, judge

TIMES = Times.of(6)  # a beat each 1.5 s; a session may be over 2.75 s after its worker fell silent
LINKS = (Link("1.1", 0, 0), Link("2.1", 1, 0))


def job(**changes: object) -> Start:
    told = {"id": "j", "acknowledged": 1.0, "ended": 2.0, "result": "k"} | changes
    return Start("job", "k", {"seconds": 0}, "k", ("k",), **told)  # type: ignore[arg-type]


def line(worker: str, attempt: int, time: float) -> Line:
    return Line("k", "python", attempt, time, worker)


RECORD = Recorded("j", "k", "COMPLETED", is_job=True)


def verdict_on(
    start: Start | None = None,
    lines: tuple[Line, ...] = (line("1.1", 1, 10),),
    recorded: tuple[Recorded, ...] = (RECORD,),
    faults: tuple[Fault, ...] = (),
    links: tuple[Link, ...] = LINKS,
    **reasons: str,
) -> Verdict:
    return judge([start or job()], lines, recorded, reasons, absences_of(faults, links, TIMES), TIMES)


def fault(kind: Kind, target: str, begin: float, end: float | None = None) -> Fault:
    return Fault(1, kind, target, begin, begin if end is None else end)


def test_all_is_well() -> None:
    assert verdict_on().is_clean


@pytest.mark.parametrize(
    ("start", "lines", "recorded", "words"),
    [
        (job(), (line("1.1", 1, 10),), (), "not on record"),
        (job(problem="it failed"), (line("1.1", 1, 10),), (RECORD,), "it failed"),
        (job(result="another"), (line("1.1", 1, 10),), (RECORD,), "came to 'another'"),
        (job(), (), (RECORD,), "without effect k"),
        (job(), (line("1.1", 1, 10),), (Recorded("j", "k", "RUNNING", is_job=True),), "is RUNNING on record"),
    ],
)
def test_what_was_acknowledged_and_is_not_done_is_lost(
    start: Start, lines: tuple[Line, ...], recorded: tuple[Recorded, ...], words: str
) -> None:
    found = verdict_on(start, lines, recorded)
    assert not found.is_clean
    assert words in found.lost[0]


def test_what_was_never_acknowledged_may_be_there_or_not() -> None:
    start = job(id="", ended=0.0, problem="not acknowledged")
    for found in (verdict_on(start, lines=(), recorded=()), verdict_on(start)):
        assert found.lost + found.twice + found.stuck == []
        assert found.troubles == ["job k was not acknowledged"]
    assert "nobody answered" in verdict_on(job(id="", ended=0.0)).stuck[0]
    assert not judge([], (), (), {}, (), TIMES).is_clean


def errand(**changes: object) -> Start:
    told = {"id": "r", "acknowledged": 1.0, "ended": 20.0, "result": 1} | changes
    return Start("errand", "k", {"seconds": 0}, 1, ("k",), steps=5, children=1, **told)  # type: ignore[arg-type]


RUN = Recorded("r", "k", "COMPLETED", outcomes=(Outcome("k", 1, 11),), steps=5)
CHILD = Recorded("c", "k", "COMPLETED", parent="r", steps=3)


def test_a_run_and_its_child_are_well() -> None:
    assert verdict_on(errand(), recorded=(RUN, CHILD)).is_clean


@pytest.mark.parametrize(
    ("run", "children", "sort", "words"),
    [
        (dataclasses.replace(RUN, steps=6), (CHILD,), "twice", "took 6 steps, not 5"),
        (dataclasses.replace(RUN, steps=4), (CHILD,), "lost", "took 4 steps, not 5"),
        (RUN, (CHILD, dataclasses.replace(CHILD, id="d")), "twice", "2 children, not 1"),
        (RUN, (dataclasses.replace(CHILD, state="RUNNING"),), "stuck", "child c of r is RUNNING"),
        (RUN, (dataclasses.replace(CHILD, state="FAILED"),), "lost", "child c of r is FAILED"),
        (RUN, (dataclasses.replace(CHILD, parent="x"),), "twice", "nobody asked"),
        (RUN, (CHILD, Recorded("s", "another", "COMPLETED")), "twice", "nobody asked"),
        (dataclasses.replace(RUN, outcomes=()), (CHILD,), "lost", "never got what effect k"),
        (dataclasses.replace(RUN, outcomes=RUN.outcomes * 2), (CHILD,), "twice", "got 'k' from an effect once more"),
        (dataclasses.replace(RUN, outcomes=(Outcome("another", 1, 11),)), (CHILD,), "lost", "never got what effect k"),
    ],
)
def test_a_run_takes_its_steps_once_and_has_no_other_child(
    run: Recorded, children: tuple[Recorded, ...], sort: str, words: str
) -> None:
    found = getattr(verdict_on(errand(), recorded=(run, *children)), sort)
    assert words in "".join(found)


def test_what_was_not_acknowledged_and_is_there_must_end_too() -> None:
    start = errand(id="", ended=0.0, problem="not acknowledged")
    found = verdict_on(start, recorded=(dataclasses.replace(RUN, state="SUSPENDED"), CHILD))
    assert found.stuck == ["run r of k is SUSPENDED"]


def test_what_has_not_ended_is_stuck_and_says_why() -> None:
    found = verdict_on(job(ended=0.0), recorded=(Recorded("j", "k", "RUNNING", is_job=True),), k="HELD: by nobody")
    assert found.stuck == ["job k (j) is RUNNING: HELD: by nobody"]
    assert "never told" in verdict_on(job(ended=0.0)).stuck[0]


def test_one_start_is_one_run() -> None:
    other = Recorded("i", "k", "COMPLETED", is_job=True)
    assert verdict_on(recorded=(RECORD, other)).twice == ["job k was started as each of i, j"]
    assert "refused" in verdict_on(job(answers=["j", "refused: UNIQUE_KEY_IN_USE"])).twice[0]
    assert verdict_on(job(answers=["j", "j"])).is_clean


def test_histories_tell_of_what_was_recorded_twice() -> None:
    good = [(1, "RunStarted", 0), (2, "ActivityScheduled", 1), (3, "ActivityCompleted", 1), (4, "RunCompleted", 0)]
    assert flaws_of(good) == []
    assert flaws_of([*good[:3], (4, "ActivityCompleted", 1)]) == ["step 1 ended 2 times"]
    assert flaws_of([*good, (5, "RunCompleted", 0)]) == ["it ended 2 times"]
    assert flaws_of([*good[:2], good[3]]) == ["its history has gaps"]
    assert not verdict_on(recorded=(Recorded("j", "k", "COMPLETED", flaws=("step 1 ended 2 times",)),)).is_clean


KILLED = fault(Kind.WORKER_KILLED, "1.1", 11)
FROZEN = fault(Kind.WORKER_FROZEN, "1.1", 11, 20)
FIRST = line("1.1", 1, 10)


@pytest.mark.parametrize(
    ("lines", "faults", "rule"),
    [
        # Killed at work: its attempt is spent once its session is over.
        ((FIRST, line("2.1", 2, 17)), (KILLED,), Rule.SESSION_LOST),
        # Frozen for longer than its session lasts, or cut off, or its replica frozen.
        ((FIRST, line("2.1", 2, 17)), (FROZEN,), Rule.SESSION_LOST),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.WORKER_SEVERED, "1.1", 11, 20),), Rule.SESSION_LOST),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.REPLICA_FROZEN, "0", 11, 20),), Rule.SESSION_LOST),
        # Two absences that follow each other are one.
        (
            (FIRST, line("2.1", 2, 17)),
            (fault(Kind.WORKER_STALLED, "1.1", 11, 13), fault(Kind.WORKER_FROZEN, "1.1", 13.5, 16)),
            Rule.SESSION_LOST,
        ),
        # Cut off before its acknowledgement was heard: no attempt is spent.
        ((FIRST, line("2.1", 1, 10.4)), (fault(Kind.WORKER_CUT, "1.1", 10.1),), Rule.NOT_ACKNOWLEDGED),
        ((FIRST, line("2.1", 1, 10.4)), (fault(Kind.REPLICA_KILLED, "0", 10.1),), Rule.NOT_ACKNOWLEDGED),
        # Given to another while it slept, and begun by both.
        ((line("2.1", 2, 18), line("1.1", 1, 20.2)), (FROZEN,), Rule.BEGAN_LATE),
        ((line("2.1", 1, 14), line("1.1", 1, 20.2)), (FROZEN,), Rule.BEGAN_LATE),
    ],
)
def test_what_was_done_twice_is_explained_by_the_fault_that_took_its_grant(
    lines: tuple[Line, ...], faults: tuple[Fault, ...], rule: Rule
) -> None:
    found = verdict_on(lines=lines, faults=faults)
    assert found.is_clean
    assert [(each.rule, each.fault in faults) for each in found.explained] == [(rule, True)]


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        # No fault at all, and one of somebody else.
        ((FIRST, line("2.1", 2, 17)), ()),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.WORKER_KILLED, "2.1", 11),)),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.REPLICA_FROZEN, "1", 11, 20),)),
        # After the second beginning, or over long before the first.
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.WORKER_KILLED, "1.1", 17.5),)),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.WORKER_FROZEN, "1.1", 1, 8),)),
        # Given to another while the session of its holder was alive: too soon, or after too short a sleep.
        ((FIRST, line("2.1", 2, 12)), (KILLED,)),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.WORKER_FROZEN, "1.1", 11, 13),)),
        # Given back unspent though it had been acknowledged long ago.
        ((FIRST, line("2.1", 1, 17)), (fault(Kind.WORKER_KILLED, "1.1", 13),)),
        # A cut that was mended at once takes no session.
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.WORKER_CUT, "1.1", 10.1),)),
        # What is told to end takes care of what it has, and an absent database expires nobody.
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.WORKER_LEFT, "1.1", 11),)),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.REPLICA_LEFT, "0", 11, 20),)),
        ((FIRST, line("2.1", 2, 17)), (fault(Kind.DATABASE_KILLED, "database", 11, 20),)),
        # Awake for long, it began what was not its own.
        ((line("2.1", 2, 18), line("1.1", 1, 25)), (FROZEN,)),
        # Begun twice by the one that had it, though it had just awoken.
        ((line("1.1", 1, 20.6), line("1.1", 1, 20.8)), (FROZEN,)),
        # The first of three is explained, the second is not.
        ((FIRST, line("2.1", 2, 17), line("2.1", 3, 19)), (KILLED,)),
    ],
)
def test_what_no_fault_explains_is_told(lines: tuple[Line, ...], faults: tuple[Fault, ...]) -> None:
    links = (*LINKS, Link("1.1", 0, 10.3))
    found = verdict_on(lines=lines, faults=faults, links=links)
    assert not found.is_clean
    assert found.unexplained
    assert found.lost + found.twice + found.stuck == []


@pytest.mark.parametrize(
    ("lines", "faults", "links"),
    [
        # It had connected to the replica that was started in place of the killed one, and stayed.
        (
            (FIRST, line("2.1", 2, 60)),
            (fault(Kind.REPLICA_KILLED, "0", 5, 9),),
            (Link("1.1", 1, 0, 5), Link("1.1", 0, 8)),
        ),
        # Of its two connections the one over which it said nothing was lost, and nobody missed it.
        (
            (FIRST, line("2.1", 2, 60)),
            (fault(Kind.REPLICA_KILLED, "0", 11, 13),),
            (Link("1.1", 1, 0), Link("1.1", 0, 0, 11, heard=0.1)),
        ),
        (
            (FIRST, line("2.1", 2, 60)),
            (fault(Kind.REPLICA_FROZEN, "0", 11, 20),),
            (Link("1.1", 1, 0), Link("1.1", 0, 0, heard=0.1)),
        ),
        # Cut off, it was given nothing; what it begins then it begins twice.
        (
            (FIRST, line("2.1", 1, 16)),
            (fault(Kind.WORKER_SEVERED, "2.1", 9, 15),),
            LINKS,
        ),
        (
            (FIRST, line("2.1", 1, 16)),
            (fault(Kind.REPLICA_KILLED, "1", 9, 12),),
            (Link("2.1", 1, 0, 9), Link("2.1", 0, 15)),
        ),
    ],
)
def test_what_did_not_keep_a_worker_away_explains_nothing(
    lines: tuple[Line, ...], faults: tuple[Fault, ...], links: tuple[Link, ...]
) -> None:
    assert verdict_on(lines=lines, faults=faults, links=links).unexplained


def test_the_fault_that_is_named_had_happened() -> None:
    severed = fault(Kind.WORKER_SEVERED, "1.1", 11, 16)
    after = fault(Kind.WORKER_FROZEN, "1.1", 16.5, 40)
    links = (Link("1.1", 0, 0, 11), Link("1.1", 0, 16))
    (again,) = verdict_on(lines=(FIRST, line("2.1", 2, 15)), faults=(severed, after), links=links).explained
    assert again.fault is severed


def test_who_leaves_unheard_takes_its_work_along() -> None:
    """Its replica was frozen for a little only, but it was told to leave meanwhile: nobody heard what it had done."""
    frozen = fault(Kind.REPLICA_FROZEN, "0", 11, 13)
    left = fault(Kind.WORKER_LEFT, "1.1", 11.5, 12.5)
    lines = (FIRST, line("2.1", 2, 17))
    assert verdict_on(lines=lines, faults=(frozen,)).unexplained
    assert verdict_on(lines=lines, faults=(frozen, left)).is_clean


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("k", 1, 13.1), ""),
        (Outcome("k", 1, 12.0), "1.0 s before that was over"),
        (Outcome("k", 2, 14.0), "in attempt 2, which nobody began"),
    ],
)
def test_what_is_recorded_must_have_been_done(outcome: Outcome, words: str) -> None:
    """An effect takes three seconds: whoever reports it sooner reports what another was granted."""
    start = job()
    start.told = {"seconds": 3}
    found = verdict_on(start, recorded=(dataclasses.replace(RECORD, outcomes=(outcome,)),))
    assert found.is_clean is not bool(words)
    assert words in "".join(found.undone)
