"""Each alert comes when it should, alone, and none while all is well: worked out by Prometheus's own promtool."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.telemetry.test_dashboards import ALERTS, ROOT, rules

PROMTOOL = ROOT / ".cache/tools/bin/promtool"
# Two replicas, of which the first leads; a sample each half minute, for an hour and a half.
A, B = 'namespace="n", job="s", instance="a"', 'namespace="n", job="s", instance="b"'
QUEUE = f'{A}, stepwell_namespace="m", task_queue="q", kind="run"'
COUNT = 180
WELL = {
    f"up{{{A}}}": "1",
    f"up{{{B}}}": "1",
    f'stepwell_build_info{{{A}, version="1"}}': "1",
    f'stepwell_build_info{{{B}, version="1"}}': "1",
    f"stepwell_ready{{{A}}}": "1",
    f"stepwell_ready{{{B}}}": "1",
    f"stepwell_leader{{{A}}}": "1",
    f"stepwell_leader{{{B}}}": "0",
    f'stepwell_round_time_seconds{{{A}, loop="timers"}}': "0+30",
    f'stepwell_round_time_seconds{{{A}, loop="retention"}}': "0+30",
    # It led once, and has not since.
    f'stepwell_round_time_seconds{{{B}, loop="timers"}}': "0",
    f'stepwell_rounds_total{{{A}, loop="timers", outcome="failed"}}': "4",
    f'stepwell_lateness_seconds_bucket{{{A}, loop="timers", le="15"}}': "0+100",
    f'stepwell_lateness_seconds_bucket{{{A}, loop="timers", le="60"}}': "0+100",
    f'stepwell_lateness_seconds_bucket{{{A}, loop="timers", le="+Inf"}}': "0+100",
    f"stepwell_dead_letters{{{A}}}": "3",
    f'stepwell_refusals_total{{{A}, reason="INTERNAL_ERROR"}}': "0",
    f'stepwell_refusals_total{{{A}, reason="QUEUE_FULL"}}': "0",
    f'stepwell_refusals_total{{{A}, reason="RUN_NOT_FOUND"}}': "0+3000",
    f"stepwell_backlog_age_seconds{{{QUEUE}}}": "200",
    f"stepwell_backlog_stranded_tasks{{{QUEUE}}}": "0",
    f'stepwell_leases_lost_total{{{A}, reason="session expired"}}': "5",
    f'stepwell_leases_lost_total{{{A}, reason="RUN_ENDED"}}': "0+100",
    f'stepwell_commit_seconds_bucket{{{A}, le="0.1"}}': "0+100",
    f'stepwell_commit_seconds_bucket{{{A}, le="2.5"}}': "0+100",
    f'stepwell_commit_seconds_bucket{{{A}, le="+Inf"}}': "0+100",
    f'stepwell_database_connects_total{{{A}, outcome="failed"}}': "3",
    f'stepwell_database_connects_total{{{A}, outcome="made"}}': "0+1",
    f"stepwell_pool_connections_used{{{A}}}": "7",
    f"stepwell_pool_connections_allowed{{{A}}}": "8",
    f"process_cpu_seconds_total{{{A}}}": "0+20",
    f"stepwell_certificate_expiry_seconds{{{A}}}": "9000000",
    f"stepwell_certificate_expiry_seconds{{{B}}}": "0",
    # Another program's.
    'up{namespace="n", job="other", instance="x"}': "0",
    'process_cpu_seconds_total{namespace="n", job="other", instance="x"}': "0+30",
}


class Case(NamedTuple):
    """What is otherwise than when all is well, and which alerts come of it."""

    changed: Mapping[str, str | None]
    alerts: tuple[str, ...]


CASES = {
    "well": Case({}, ()),
    "nothing is scraped": Case(dict.fromkeys(WELL), ("StepwellAbsent",)),
    "a replica is gone": Case(
        {f"up{{{B}}}": "0", f"stepwell_ready{{{B}}}": None, f"stepwell_leader{{{B}}}": None}, ("StepwellDown",)
    ),
    "a replica is not ready": Case({f"stepwell_ready{{{B}}}": "0"}, ("StepwellNotReady",)),
    "none is ready": Case(
        {f"stepwell_ready{{{A}}}": "0", f"stepwell_ready{{{B}}}": "0"}, ("StepwellNoneReady", "StepwellNotReady")
    ),
    "faults": Case(
        {f'stepwell_refusals_total{{{A}, reason="INTERNAL_ERROR"}}': "0+1"},
        ("StepwellErrors",),
    ),
    "overload": Case({f'stepwell_refusals_total{{{A}, reason="QUEUE_FULL"}}': "0+60"}, ("StepwellOverloaded",)),
    "a busy replica": Case({f"process_cpu_seconds_total{{{A}}}": "0+29"}, ("StepwellProcessorBusy",)),
    "two versions": Case(
        {f'stepwell_build_info{{{B}, version="1"}}': None, f'stepwell_build_info{{{B}, version="2"}}': "1"},
        ("StepwellVersionsDiffer",),
    ),
    "no leader": Case({f"stepwell_leader{{{A}}}": "0"}, ("StepwellNoLeader",)),
    "two leaders": Case({f"stepwell_leader{{{B}}}": "1"}, ("StepwellSeveralLeaders",)),
    "a duty that stands still": Case(
        {f'stepwell_round_time_seconds{{{A}, loop="timers"}}': "0"}, ("StepwellLeaderIdle",)
    ),
    "a duty that takes its time": Case({f'stepwell_round_time_seconds{{{A}, loop="retention"}}': "0"}, ()),
    "a duty that fails": Case(
        {f'stepwell_rounds_total{{{A}, loop="timers", outcome="failed"}}': "0+2"}, ("StepwellRoundsFail",)
    ),
    "a leader that is late": Case(
        {f'stepwell_lateness_seconds_bucket{{{A}, loop="timers", le="15"}}': "0+50"}, ("StepwellLate",)
    ),
    "dead letters": Case({f"stepwell_dead_letters{{{A}}}": "0+1"}, ("StepwellDeadLetters",)),
    "nobody takes it": Case({f"stepwell_backlog_stranded_tasks{{{QUEUE}}}": "2"}, ("StepwellNoWorker",)),
    "a backlog that grows old": Case({f"stepwell_backlog_age_seconds{{{QUEUE}}}": "0+30"}, ("StepwellBacklogOld",)),
    "a backlog that is being done": Case({f"stepwell_backlog_age_seconds{{{QUEUE}}}": "9000-30"}, ()),
    "workers die": Case(
        {f'stepwell_leases_lost_total{{{A}, reason="session expired"}}': "0+1"}, ("StepwellLeasesLost",)
    ),
    "no database": Case(
        {f'stepwell_database_connects_total{{{A}, outcome="failed"}}': "0+10"}, ("StepwellDatabaseUnreachable",)
    ),
    "slow commits": Case({f'stepwell_commit_seconds_bucket{{{A}, le="0.1"}}': "0+90"}, ("StepwellCommitsSlow",)),
    "a certificate that ends": Case(
        {f"stepwell_certificate_expiry_seconds{{{A}}}": "600000"}, ("StepwellCertificateEnds",)
    ),
    "no connection left": Case({f"stepwell_pool_connections_used{{{A}}}": "8"}, ("StepwellPoolExhausted",)),
}


@pytest.fixture
def promtool() -> Path:
    if not PROMTOOL.exists():
        if os.environ.get("CI"):
            pytest.fail("promtool is missing: run `make tools`")
        pytest.skip("promtool is missing; `make tools` installs it")
    return PROMTOOL


def ran(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules(promtool: Path) -> None:
    assert f"{len(rules())} rules found" in ran(promtool, "check", "rules", *ALERTS)


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_and_nothing_else(name: str, promtool: Path, tmp_path: Path) -> None:
    """After eighty minutes of it: which alerts are firing."""
    case = CASES[name]
    series = {**WELL, **case.changed}
    firing = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(case.alerts)]
    asked = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "80m",
        "exp_samples": firing,
    }
    given = [{"series": key, "values": _values(value)} for key, value in series.items() if value is not None]
    tests = [{"name": name, "interval": "30s", "input_series": given, "promql_expr_test": [asked]}]
    path = tmp_path / "case.json"  # which is YAML, too
    path.write_text(json.dumps({"rule_files": list(map(str, ALERTS)), "evaluation_interval": "30s", "tests": tests}))
    ran(promtool, "test", "rules", path)


def test_each_alert_has_a_case() -> None:
    assert {alert for case in CASES.values() for alert in case.alerts} == {rule["alert"] for rule in rules()}


def _values(text: str) -> str:
    """How promtool writes a series that stays, or rises or falls by so much a sample."""
    return f"{text}x{COUNT}"
