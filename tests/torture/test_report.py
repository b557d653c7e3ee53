"""The report: the same numbers for people, pages and programs."""

from __future__ import annotations

from pathlib import Path

from stepwell.torture.faults import Fault, Kind
from stepwell.torture.ledger import Line, read
from stepwell.torture.load import Start
from stepwell.torture.plan import Plan
from stepwell.torture.recorded import Recorded
from stepwell.torture.report import report_on
from stepwell.torture.verdict import Again, Rule, Verdict

FAULT = Fault(1, Kind.WORKER_KILLED, "1.1", 10.5, 10.5)
LINES = (Line("k", "python", 1, 10.0, "1.1"), Line("k", "go", 2, 17.0, "2.1"))


def test_numbers_and_words() -> None:
    plan = Plan(workers=("here/is/a path",), folder=Path("here"), seed=5)
    start = Start("job", "k", {"seconds": 1}, "k", ("k",), id="j", ended=20.0, result="k")
    verdict = Verdict(explained=[Again(*LINES, Rule.SESSION_LOST, FAULT)], unexplained=[Again(*LINES)])
    record = Recorded("j", "k", "COMPLETED", is_job=True)
    report = report_on(plan, 30.0, [start], LINES, [record], [FAULT], {"go": 3}, verdict)
    told = report.as_dict()
    assert told["clean"] is False
    assert told["counts"]["jobs started"] == told["counts"]["ended"] == 1
    assert told["languages"]["go"] == {"effects": 1, "runs": 3, "processes": 1}
    (words,) = told["findings"]["done twice, explained"]
    assert words.startswith("k: python 1.1 in attempt 1, and 7.0 s later go 2.1 in attempt 2: its worker's session")
    assert words.endswith("worker killed (1.1) 0.5 s after the first")
    page = report.as_markdown()
    assert "NOT CLEAN" in page
    assert "| done twice, unexplained | 1 |" in page
    assert "| worker killed | 1 |" in page
    assert "here" not in page


def test_a_line_without_an_end_had_not_begun(tmp_path: Path) -> None:
    whole = '{"key": "k", "language": "go", "pid": 7, "attempt": 2, "time": 17.0}\n'
    path = tmp_path / "ledger"
    path.write_text(whole + whole[:20])
    assert read(path, "2.1") == [LINES[1]]
    assert read(tmp_path / "none", "2.1") == []
