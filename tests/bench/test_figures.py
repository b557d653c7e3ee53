"""The arithmetic of figures, targets, comparisons and what meters print; none of it needs a process."""

from __future__ import annotations

import pytest

from bench.blocks import Bench, Sizes, throughput
from bench.figures import Figure, median, percentile, spread, wanders
from bench.latest import merged, read
from bench.meters import Wal, read_counter, read_wal
from bench.quick import compare
from bench.stand import Measured
from bench.targets import TargetError, parse, targets

_DUMP = """\
Type                                           N      (%)          Record size      (%)             FPI size      (%)        Combined size      (%)
----                                           -      ---          -----------      ---             --------      ---        -------------      ---
Transaction/COMMIT                             9 (  0.22)                 1215 (  0.45)                    0 (  0.00)                 1215 (  0.31)
Heap/INSERT                                 4000 ( 99.78)               268785 ( 99.55)               122880 (100.00)               391665 ( 99.69)
                                        --------                      --------                      --------                      --------
Total                                       4009                        270000 [68.72%]               122880 [31.28%]               392880 [100%]
"""  # noqa: E501 - as it is printed


def _measured(rate: float, cpu: float = 100.0) -> Measured:
    return Measured(rate=rate, cpu={"service": cpu, "worker": cpu}, statements=0.1, wal=None, counted=10)


def test_the_spread_is_a_part_of_the_median() -> None:
    assert median([3, 1, 2]) == 2
    assert spread([90, 100, 110]) == pytest.approx(0.2)
    assert spread([5]) == 0


def test_a_block_wanders_beyond_a_fifth() -> None:
    assert not wanders([90, 100, 110])
    assert wanders([89, 100, 110])


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7.0, 5.0, 6.0], 0.99) == 7.0
    assert percentile([7.0, 5.0, 6.0], 0.5) == 6.0


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_a_target_is_judged_in_its_own_direction() -> None:
    wanted = parse(
        '[a]\ntitle="A"\nof="ratio"\nunit="B"\nmust=0.5\naim=1.0\n'
        '[b]\ntitle="B"\nof="value"\nunit="ms"\nbetter="less"\nmust=10\n'
        '[c]\ntitle="C"\nof="value"\nunit="bytes"\n'
    )
    assert wanted["a"].judge(Figure("a", 9, "", ratio=0.5)).met is True
    assert wanted["a"].judge(Figure("a", 9, "", ratio=0.49)).met is False
    assert wanted["b"].judge(Figure("b", 10.1, "ms")).met is False
    assert wanted["c"].judge(Figure("c", 1, "bytes")).met is None


@pytest.mark.parametrize(
    "row",
    [
        'title="A"\nof="ratio"',
        'title="A"\nof="rate"\nunit="B"',
        'title="A"\nof="ratio"\nunit="B"\nmuss=1',
        'title="A"\nof="ratio"\nunit="B"\nmust=1\naim=0.5',
        'title="A"\nof="value"\nunit="ms"\nbetter="less"\nmust=1\naim=2',
    ],
)
def test_a_target_that_says_nothing_clear_is_refused(row: str) -> None:
    with pytest.raises(TargetError, match=r"^a: "):
        parse(f"[a]\n{row}\n")


def test_every_case_fills_rows_that_exist_and_every_row_is_filled() -> None:
    from bench.cases import CASES  # noqa: PLC0415 - its definitions are asked for here alone

    filled = [row for case in CASES.values() for row in case.rows]
    assert len(filled) == len(set(filled))
    assert set(filled) <= targets().keys()


async def test_a_block_that_wanders_is_measured_again_and_the_steadiest_counts() -> None:
    told: list[str] = []
    rates = iter([50, 60, 70, 51, 61, 71, 52, 62, 72])
    baselines = iter([100, 200, 100, 100, 100, 130, 100, 100, 100, 160, 100, 100])

    class _Ground:
        async def execute(self, statement: str) -> None:
            assert statement == "CHECKPOINT"

        async def baseline(self, seconds: float) -> float:
            return next(baselines)

    async def measure() -> Measured:
        return _measured(next(rates))

    block = await Bench(_Ground(), Sizes(), told.append).block({"case": measure})  # type: ignore[arg-type]
    figure = throughput("case", block, "case", "runs a second")
    assert (figure.value, figure.baseline, figure.ratio) == (61, 100, 0.61)
    assert figure.details["repeats"] == 2
    assert figure.details["wandered"] is True
    assert [text for text in told if "wanders" in text] == ["the baseline wanders by 100%", *_wanders(30, 60)]


def _wanders(*parts: int) -> list[str]:
    return [f"the baseline wanders by {part}%" for part in parts]


def test_wal_is_read_with_images_and_commits() -> None:
    assert read_wal(_DUMP) == Wal(record_bytes=270_000, image_bytes=122_880, commits=9)


def test_a_dump_without_a_total_is_no_wal() -> None:
    with pytest.raises(LookupError, match="no total"):
        read_wal("pg_waldump: nothing\n")


def test_a_counter_is_found_by_its_whole_name() -> None:
    text = "# TYPE stepwell_commits counter\nstepwell_commits_total 7.0\nstepwell_commits_total_created 9.0\n"
    assert read_counter(text, "stepwell_commits_total") == 7.0
    with pytest.raises(LookupError, match="stepwell_statements_total"):
        read_counter(text, "stepwell_statements_total")


def test_decay_begins_below_three_quarters_of_the_last_result() -> None:
    last = {"machine": {}, "cases": [{"case": "jobs", "ratio": 1.0}, {"case": "three_steps", "ratio": 2.0}]}
    now = [Figure("jobs", 1, "", ratio=0.75), Figure("three_steps", 1, "", ratio=1.49), Figure("wal", 1, "", ratio=0)]
    now.append(Figure("one_activity", 1, "", ratio=0.1))
    found = {each.name: each for each in compare(now, last)}
    assert {name: each.has_decayed for name, each in found.items()} == {
        "jobs": False,
        "three_steps": True,
        "one_activity": False,
    }
    assert "no result to compare with" in str(found["one_activity"])


def test_figures_of_another_machine_are_not_kept_beside_new_ones() -> None:
    here, there = ({"cores": cores, "fdatasync_ms": 0.1, "million_calls_ms": 70} for cores in (2, 8))
    order = ["one_activity", "jobs"]
    first = merged({"machine": {}, "cases": []}, [Figure("jobs", 1, "")], here, "abc", order)
    again = here | {"fdatasync_ms": 0.2, "million_calls_ms": 71}
    both = merged(first, [Figure("one_activity", 2, "")], again, "abd", order)
    assert [(each["case"], each["commit"]) for each in both["cases"]] == [("one_activity", "abd"), ("jobs", "abc")]
    other = merged(both, [Figure("jobs", 3, "")], there, "abe", order)
    assert [each["case"] for each in other["cases"]] == ["jobs"]


def test_no_results_are_empty_results(tmp_path: object) -> None:
    from pathlib import Path  # noqa: PLC0415

    assert read(Path(str(tmp_path)) / "latest.json") == {"machine": {}, "cases": []}
