"""Dashboards and alerts name only what is measured, and all of it is there from the start."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chaos.kit import free_port
from tests.stream.kit import until
from tests.telemetry import expressions
from tests.telemetry.declared import declared, samples
from tests.telemetry.expressions import SCRAPED
from tests.telemetry.test_counting import served
from tests.telemetry.test_metrics import address_of, lived, read

import stepwell_server.loops
from stepwell_server import errors, refusals
from stepwell_server.loops import expiry
from stepwell_server.loops.loop import Loop

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/stepwell"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
ALERTS = sorted((CHART / "alerts").glob("*.yaml"))
# Prometheus says of itself whether it could scrape.
BESIDE = {"up": frozenset[str]()}
UNITS = {"none", "short", "s", "bytes", "ops", "reqps", "percentunit"}
SEVERITIES = {"critical", "warning"}
# What is there only once it has happened.
LATER = {"stepwell_retained_runs_total", "stepwell_slow_operations_total", "stepwell_lateness_seconds_bucket"}


def panels(path: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    return [each for each in json.loads(path.read_text())["panels"] if each["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for path in ALERTS for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def asked() -> Iterator[tuple[str, str]]:
    """Each expression, and where it stands."""
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def known_values() -> dict[tuple[str, str], set[str]]:
    """The values that a label can have, where expressions name some."""
    for module in pkgutil.iter_modules(stepwell_server.loops.__path__, "stepwell_server.loops."):
        importlib.import_module(module.name)
    loops = {each.name for each in _loops(Loop)}  # type: ignore[type-abstract]
    return {
        ("stepwell_refusals_total", "reason"): set(refusals.REASONS),
        ("stepwell_leases_lost_total", "reason"): {expiry._REASON},
        ("stepwell_rounds_total", "outcome"): {"done", "failed"},
        ("stepwell_round_time_seconds", "loop"): loops,
        ("stepwell_database_connects_total", "outcome"): {"made", "failed"},
        ("stepwell_calls_total", "code"): {"OK"},
    }


def _loops(loop: type[Loop]) -> Iterator[type[Loop]]:
    for each in loop.__subclasses__():
        yield each
        yield from _loops(each)


def test_there_are_some() -> None:
    assert {path.stem for path in DASHBOARDS} == {"overview", "queues"}
    assert ALERTS
    assert len(rules()) > 15


@pytest.mark.parametrize(("where", "text"), list(asked()))
def test_expressions_name_only_what_there_is(where: str, text: str) -> None:
    """Metrics, labels and values."""
    there, values = samples() | BESIDE, known_values()
    used = expressions.read(text)
    assert used.chosen, where
    assert {each.name for each in used.chosen} <= there.keys(), where
    for each in used.chosen:
        assert {name for name, _ in each.matchers} <= there[each.name] | SCRAPED, each
        for name, value in each.matchers:
            if name not in SCRAPED and not value.startswith("$"):
                assert set(value.split("|")) <= values[each.name, name], each
    labels = frozenset[str]().union(*(there[each.name] for each in used.chosen))
    assert used.grouped <= labels | SCRAPED, where


def test_an_expression_that_names_what_there_is_not_is_found() -> None:
    used = expressions.read('sum by (q) (rate(stepwell_nothing_total{a="b"}[$__rate_interval])) > on (c) d')
    assert used.chosen == (("stepwell_nothing_total", (("a", "b"),)), ("d", ()))
    assert used.grouped == {"q", "c"}
    with pytest.raises(ValueError, match="parenthesis"):
        expressions.read("sum(rate(a[5m])")


def test_all_that_is_measured_is_shown() -> None:
    """What nobody looks at need not be measured."""
    shown = {
        each.name
        for path in DASHBOARDS
        for panel in panels(path)
        for target in panel["targets"]
        for each in expressions.read(target["expr"]).chosen
    }
    assert [each.name for each in declared() if not shown & each.samples.keys()] == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported(path: Path) -> None:
    """Ids are its own, nothing overlaps, each panel says what it shows and in what, from the chosen source."""
    found = json.loads(path.read_text())
    assert found["schemaVersion"] >= 38
    assert found["uid"]
    assert "id" not in found
    numbers = [panel["id"] for panel in found["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
    variables = [each["name"] for each in found["templating"]["list"]]
    assert {"datasource", "namespace", "job"} <= set(variables)
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(path):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == source
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == source
            named = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert named <= set(variables), panel["title"]
            assert {"namespace", "job"} <= named, panel["title"]


def test_dashboards_are_current() -> None:
    command = [sys.executable, "tools/dashboards.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """For how long it must hold, how bad it is, what it means; and the handbook has a chapter on it."""
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Stepwell[A-Z]\w+", rule["alert"])
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in SEVERITIES
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert notes["summary"].endswith(".")
    assert len(notes["description"]) > 80
    page, _, anchor = notes["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    assert re.search(rf"^#+ {rule['alert']}$", (ROOT / page).read_text(), re.MULTILINE)
    labels = {*SCRAPED, *(label for each in declared() for label in each.labels)}
    assert set(re.findall(r"\$labels\.(\w+)", f"{notes['summary']} {notes['description']}")) <= labels


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


async def test_what_is_shown_is_told_by_a_service_at_work(tmp_path: Path, database_url: str) -> None:
    """But for what tells of something that may never happen."""
    used = {each.name for _, text in asked() for each in expressions.read(text).chosen} - BESIDE.keys() - LATER
    settings = {"METRICS_PORT": "0", "BACKLOG_POLL_SECONDS": "0.1"}
    async with served(tmp_path, database_url, free_port(), {}, **settings) as (_, replica):
        address = await address_of(tmp_path / "server.log")
        await lived(replica)
        told = await until(lambda: asyncio.to_thread(read, address), lambda found: used <= found.keys())
    assert told["stepwell_ready"] == {(): 1}
    assert told["stepwell_refusals_total"].keys() >= {
        (errors.InternalError.reason,),
        (errors.QueueFull.reason,),
        (errors.DatabaseUnavailable.reason,),
    }
