"""When schedules fire, and what becomes of a firing that meets an open run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from stepwell_server.engine import schedules
from stepwell_server.engine.cron import BadTimes, check, first_after, times_after, with_jitter
from stepwell_server.engine.starts import NewRun
from stepwell_server.ids import uuid7
from stepwell_server.model.schedules import OpenRun, Overlap, Schedule, Spec, Waiting

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
OPEN = OpenRun(1, uuid7(), cancel_requested=False)
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
NEW_YORK = "America/New_York"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def schedule(spec: Spec, since: datetime, overlap: int = Overlap.SKIP, catchup: float = 86_400.0) -> Schedule:
    """One that was looked at last at a moment."""
    next_time, nominal = schedules.next_firing(spec, ID, since)
    run = schedules.pack_run(NewRun(1, "main", "t", "q"))
    return Schedule(
        schedule_id=ID,
        namespace_id=1,
        name="nightly",
        cron=spec.cron,
        time_zone=spec.time_zone,
        jitter_seconds=spec.jitter_seconds,
        start_time=spec.start_time,
        end_time=spec.end_time,
        overlap_policy=overlap,
        catchup_seconds=catchup,
        run=run,
        pause_reason=None,
        create_time=since,
        update_time=since,
        version=0,
        next_time=next_time,
        next_nominal=nominal,
        waiting=0,
        last_time=None,
        last_workflow_id="",
        last_run_id=None,
        fired=0,
        skipped=0,
        missed=0,
        last_error="",
    )


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "zone", "after", "times"),
    [
        ("30 1 * * *", "UTC", "2030-01-01T00:00", ["2030-01-01T01:30", "2030-01-02T01:30"]),
        ("@daily", "Europe/Berlin", "2030-01-01T00:00", ["2030-01-01T23:00", "2030-01-02T23:00"]),
        ("15 0 12 * * MON", "UTC", "2030-01-01T00:00", ["2030-01-07T12:00:15", "2030-01-14T12:00:15"]),
        ("*/20 * * * * *", "UTC", "2030-01-01T00:00", ["2030-01-01T00:00:20", "2030-01-01T00:00:40"]),
        ("@every 90s", "UTC", "2030-01-01T00:00:01", ["2030-01-01T00:01:30", "2030-01-01T00:03"]),
        ("0 0 29 2 *", "UTC", "2030-01-01T00:00", ["2032-02-29T00:00", "2036-02-29T00:00"]),
        # Clocks go back on 2030-11-03 at 06:00 UTC: a fixed time fires once, with seconds too; half hours go on.
        ("30 1 * * *", NEW_YORK, "2030-11-03T00:00", ["2030-11-03T05:30", "2030-11-04T06:30"]),
        ("7 30 1 * * *", NEW_YORK, "2030-11-03T00:00", ["2030-11-03T05:30:07", "2030-11-04T06:30:07"]),
        ("*/30 * * * *", NEW_YORK, "2030-11-03T05:10", ["2030-11-03T05:30", "2030-11-03T06:00", "2030-11-03T06:30"]),
        # Clocks go forward on 2030-03-10 at 07:00 UTC: what is in the gap fires right after it.
        ("30 2 * * *", NEW_YORK, "2030-03-10T00:00", ["2030-03-10T07:00", "2030-03-11T06:30"]),
    ],
)
def test_times(cron: str, zone: str, after: str, times: list[str]) -> None:
    found = islice(times_after(Spec(cron, zone), utc(after)), len(times))
    assert list(found) == [utc(time) for time in times]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (Spec(""), "cron"),
        (Spec("* * * *"), "cron"),
        (Spec("61 * * * *"), "cron"),
        (Spec("0 0 30 2 *"), "cron"),
        (Spec("* * * * MON#1/2"), "cron"),
        (Spec("@every 0s"), "cron"),
        (Spec("@every 1w"), "cron"),
        (Spec("@reboot"), "cron"),
        (Spec("\u0661 * * * *"), "cron"),
        (Spec("@daily", "Mars/Olympus"), "time_zone"),
        (Spec("@daily", "../../etc/passwd"), "time_zone"),
        (Spec("@daily", "\0"), "time_zone"),
        (Spec("@daily", start_time=NOW, end_time=NOW), "end_time"),
    ],
)
def test_what_names_no_times_is_refused(spec: Spec, field: str) -> None:
    with pytest.raises(BadTimes) as caught:
        check(spec, NOW)
    assert caught.value.field == field


@given(st.text(alphabet="0123456789*/,-#L @everyMON", max_size=24))
@settings(max_examples=300, deadline=None)
def test_any_text_names_times_or_is_refused(cron: str) -> None:
    spec = Spec(cron)
    try:
        check(spec, NOW)
    except BadTimes:
        return
    found = list(islice(times_after(spec, NOW), 3))
    assert all(one < other for one, other in pairwise([NOW, *found]))


def test_a_span_has_its_first_moment_and_not_its_last() -> None:
    spec = Spec("@hourly", start_time=utc("2030-01-01T03:00"), end_time=utc("2030-01-01T05:00"))
    assert list(times_after(spec, utc("2030-01-01T00:00"))) == [utc("2030-01-01T03:00"), utc("2030-01-01T04:00")]
    between = schedules.times_between(Spec("@hourly"), utc("2030-01-01T03:00"), utc("2030-01-01T05:00"))
    assert between == [utc("2030-01-01T03:00"), utc("2030-01-01T04:00")]


def test_jitter_is_the_same_each_time_and_never_beyond_the_next() -> None:
    spec = Spec("* * * * *", jitter_seconds=3_600)
    times = list(islice(times_after(spec, NOW), 50))
    delays = [(with_jitter(spec, ID, time) - time).total_seconds() for time in times]
    assert delays == [(with_jitter(spec, ID, time) - time).total_seconds() for time in times]
    assert all(0 <= delay < 60 for delay in delays)
    assert len(set(delays)) == len(delays)


# --- plans ------------------------------------------------------------------------------------------------------------


def test_what_is_due_fires_and_the_next_follows() -> None:
    plan = schedules.plan(schedule(Spec("@hourly"), NOW - timedelta(minutes=90)), [], [], NOW)
    assert (plan.starts, plan.skipped) == ([NOW - timedelta(hours=1)], 1)
    assert plan.next_nominal == NOW + timedelta(hours=1)


def test_nothing_is_due_before_its_time() -> None:
    made = schedule(Spec("@hourly"), NOW)
    plan = schedules.plan(made, [], [], NOW + timedelta(minutes=59))
    assert (plan.starts, plan.next_nominal) == ([], made.next_nominal)


def test_times_beyond_the_window_are_missed() -> None:
    made = schedule(Spec("@hourly"), NOW - timedelta(hours=10, minutes=1), Overlap.ALLOW_ALL, catchup=7_200)
    plan = schedules.plan(made, [], [], NOW)
    assert plan.starts == [NOW - timedelta(hours=hours) for hours in (2, 1, 0)]
    assert plan.missed == 8


def test_a_look_goes_through_a_thousand_times_and_the_next_goes_on() -> None:
    made = schedule(Spec("* * * * * *"), NOW - timedelta(hours=1), Overlap.ALLOW_ALL)
    plan = schedules.plan(made, [], [], NOW)
    assert len(plan.starts) == schedules.MOST_TIMES
    following = replace(made, next_time=plan.next_nominal, next_nominal=plan.next_nominal)
    assert schedules.plan(following, [], [], NOW).starts[0] == plan.starts[-1] + timedelta(seconds=1)


def test_after_its_end_nothing_is_next() -> None:
    spec = Spec("@hourly", end_time=NOW + timedelta(minutes=1))
    plan = schedules.plan(schedule(spec, NOW - timedelta(minutes=1)), [], [], NOW)
    assert (plan.starts, plan.next_nominal) == ([NOW], None)


@pytest.mark.parametrize(
    ("overlap", "starts", "terminate", "cancel", "kept", "skipped"),
    [
        (Overlap.SKIP, [], False, False, [], 3),
        (Overlap.BUFFER_ONE, [], False, False, [0], 2),
        (Overlap.CANCEL_OTHER, [], False, True, [2], 2),
        (Overlap.TERMINATE_OTHER, [2], True, False, [], 2),
        (Overlap.ALLOW_ALL, [0, 1, 2], False, False, [], 0),
    ],
)
def test_three_firings_meet_an_open_run(  # noqa: PLR0917 - a row of the table
    overlap: Overlap, starts: list[int], terminate: bool, cancel: bool, kept: list[int], skipped: int
) -> None:
    times = [NOW - timedelta(hours=2), NOW - timedelta(hours=1), NOW]
    plan = schedules.plan(schedule(Spec("@hourly"), NOW - timedelta(hours=2, minutes=1), overlap), [], [OPEN], NOW)
    assert plan.starts == [times[place] for place in starts]
    assert (plan.terminate, plan.cancel, plan.skipped) == (terminate, cancel, skipped)
    assert plan.keep == [Waiting(ID, times[place], overlap) for place in kept]


def test_what_waited_goes_ahead_once_the_run_has_ended() -> None:
    made = schedule(Spec("@hourly"), NOW + timedelta(minutes=1), Overlap.BUFFER_ONE)
    waiting = [Waiting(ID, NOW, Overlap.BUFFER_ONE)]
    assert schedules.plan(made, waiting, [OPEN], NOW).keep == waiting
    plan = schedules.plan(made, waiting, [], NOW)
    assert (plan.starts, plan.keep) == ([NOW], [])


def test_a_run_is_asked_to_cancel_once() -> None:
    made = schedule(Spec("@hourly"), NOW + timedelta(minutes=1), Overlap.CANCEL_OTHER)
    waiting = [Waiting(ID, NOW, Overlap.CANCEL_OTHER)]
    plan = schedules.plan(made, waiting, [replace(OPEN, cancel_requested=True)] * 2, NOW)
    assert (plan.cancel, plan.keep) == (False, waiting)
    beside = [replace(OPEN, cancel_requested=True), OPEN]
    assert schedules.plan(made, waiting, beside, NOW).cancel


@pytest.mark.parametrize(
    ("overlap", "waiting", "heeds"),
    [
        (Overlap.ALLOW_ALL, [], False),
        (Overlap.ALLOW_ALL, [Overlap.ALLOW_ALL], False),
        (Overlap.ALLOW_ALL, [Overlap.BUFFER_ONE], True),
        (Overlap.SKIP, [Overlap.ALLOW_ALL], True),
    ],
)
def test_under_allow_all_nobody_looks_at_open_runs(overlap: Overlap, waiting: list[Overlap], heeds: bool) -> None:
    made = schedule(Spec("@hourly"), NOW, overlap)
    assert schedules.heeds_open_runs(made, [Waiting(ID, NOW, policy) for policy in waiting]) == heeds


@given(
    st.lists(
        st.tuples(st.integers(-30, 0), st.sampled_from(list(Overlap))), max_size=8, unique_by=lambda each: each[0]
    ),
    st.sampled_from(list(Overlap)),
    st.booleans(),
    st.integers(0, 5),
)
@settings(max_examples=400, deadline=None)
def test_every_firing_goes_ahead_waits_or_is_counted(
    waiting: list[tuple[int, Overlap]], overlap: Overlap, is_open: bool, hours: int
) -> None:
    """And without ALLOW_ALL no two runs of a schedule are open at once."""
    made = schedule(Spec("@hourly"), NOW - timedelta(hours=hours, minutes=1), overlap)
    rows = [Waiting(ID, NOW + timedelta(minutes=minute, seconds=30), policy) for minute, policy in waiting]
    plan = schedules.plan(made, rows, [OPEN] if is_open else [], NOW)
    due = hours + 1
    assert len(plan.starts) + len(plan.keep) + plan.skipped == len(rows) + due
    assert plan.starts == sorted(plan.starts)
    if overlap != Overlap.ALLOW_ALL and all(policy != Overlap.ALLOW_ALL for _, policy in waiting):
        assert len(plan.starts) <= (not is_open or plan.terminate)


def test_a_run_has_the_same_ids_whoever_fires_it() -> None:
    made = schedule(Spec("@hourly"), NOW)
    one, other = (schedules.start_of(made, NOW, trace).new for trace in ("a", "b"))
    assert (one.run_id, one.workflow_id) == (other.run_id, "nightly-2030-01-01T12:00:00Z")
    assert schedules.start_of(made, NOW + timedelta(hours=1), "").new.run_id != one.run_id
    assert first_after(Spec("@hourly"), NOW) == NOW + timedelta(hours=1)


# --- patches ----------------------------------------------------------------------------------------------------------


def test_a_patch_that_mends_an_unknown_zone_owes_the_time_that_is_known() -> None:
    known = schedule(Spec("@daily"), NOW - timedelta(days=1))
    before = replace(known, time_zone="Mars/Olympus")
    after, owed = schedules.patched(before, known, NOW)
    assert (owed.times, owed.missed, after.next_nominal) == ([known.next_nominal], 0, NOW + timedelta(hours=12))


def test_a_patch_of_the_times_before_they_come_owes_nothing() -> None:
    before = schedule(Spec("@daily"), NOW)
    after, owed = schedules.patched(before, replace(before, cron="@hourly"), NOW)
    assert (owed, after.next_nominal) == (schedules.Owed(), NOW + timedelta(hours=1))
