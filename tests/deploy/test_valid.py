"""Tools that know Kubernetes find nothing in what the chart makes: helm's lint, schemas of its versions, a scorer."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.chart import CASES, CHART, ROOT, TOOLS, Rendered, filled, helm, render, tool

SCHEMAS = TOOLS / "schemas"
# Kinds whose definitions are in no module that can be had.
UNKNOWN = ("BackendTrafficPolicy", "ClientTrafficPolicy")
VERSIONS = ("1.27.0", "1.30.0", "1.33.0", "1.37.0")
# What some cases themselves turn off.
TURNED_OFF = {"bare-values": {"pod-networkpolicy", "deployment-replicas"}, "parts-values": {"deployment-replicas"}}
ANSWERS = ROOT / "docs/operations/install.md"


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with alerts and dashboards."""
    return filled(tmp_path_factory.mktemp("chart"))


@pytest.fixture(scope="session")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON schemas of the custom resources, of their definitions."""
    if not (SCHEMAS / "definitions").exists():
        tool("schemas")
    folder = tmp_path_factory.mktemp("definitions")
    for path in (SCHEMAS / "definitions").glob("*.yaml"):
        # cert-manager's have lines of a template, all of them comments or about labels.
        text = "\n".join(line for line in path.read_text().splitlines() if "{{" not in line)
        spec = yaml.safe_load(text)["spec"]
        for version in spec["versions"]:
            schema = _closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            (folder / f"{spec['names']['kind'].lower()}_{version['name']}.json").write_text(json.dumps(schema))
    return folder


def _closed(schema: Any) -> Any:
    """A schema that refuses what it does not name, as the server would drop it."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    named = isinstance(closed.get("properties"), dict) and closed.get("type") == "object"
    if named and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if closed.pop("x-kubernetes-int-or-string", False) is True:
        closed.pop("type", None)
    return closed


def conform(text: str, version: str, definitions: Path, *skipped: str) -> subprocess.CompletedProcess[str]:
    """Holds objects against the schemas of a version."""
    command = [
        str(tool("kubeconform")),
        "-strict",
        "-summary",
        "-output=json",
        f"-kubernetes-version={version}",
        f"-schema-location={SCHEMAS}/{{{{.NormalizedKubernetesVersion}}}}-local{{{{.StrictSuffix}}}}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
        f"-schema-location={definitions}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json",
        *([f"-skip={','.join(skipped)}"] if skipped else []),
    ]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_lint_finds_nothing(case: Path) -> None:
    done = helm("lint", "--strict", CHART, f"--values={case}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_lint_finds_nothing_in_the_defaults() -> None:
    done = helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(version: str, chart: Path, definitions: Path) -> None:
    """None is skipped: of each kind there is a schema. All cases at once, for each schema is read but once."""
    cases = [render(case, chart=chart, version=version) for case in CASES]
    done = conform("\n---\n".join(rendered.text for rendered in cases), version, definitions)
    assert done.returncode == 0, done.stdout
    count = sum(len(rendered.objects) for rendered in cases)
    assert json.loads(done.stdout)["summary"] == {"valid": count, "invalid": 0, "errors": 0, "skipped": 0}


def test_a_wrong_object_is_found(chart: Path, definitions: Path) -> None:
    text = render(CASES[0], chart=chart).text
    assert conform(text.replace("minReadySeconds:", "minReadySecond:"), "1.33.0", definitions).returncode != 0
    (full,) = (case for case in CASES if case.stem == "full-values")
    text = render(full, chart=chart).text
    assert conform(text.replace("scrapeTimeout:", "scrapeTimeouts:"), "1.33.0", definitions).returncode != 0


@pytest.mark.parametrize("path", sorted((CHART / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_are_valid(path: Path, definitions: Path) -> None:
    done = conform(path.read_text(), "1.33.0", definitions, *UNKNOWN)
    assert done.returncode == 0, done.stdout
    kinds = [each["kind"] for each in yaml.safe_load_all(path.read_text())]
    skipped = [kind for kind in kinds if kind in UNKNOWN]
    assert json.loads(done.stdout)["summary"]["skipped"] == len(skipped)


@cache
def answered() -> frozenset[str]:
    """The scorer's findings that the handbook answers."""
    table = ANSWERS.read_text().partition("## What reviewers ask")[2]
    rows = (line.split("|") for line in table.splitlines() if line.startswith("| `"))
    return frozenset(row[1].strip().strip("`") for row in rows)


def test_the_scorer_finds_nothing_unanswered() -> None:
    """Each finding has its answer in the handbook, and each answer its finding."""
    found = {case.stem: findings(render(case)) for case in CASES}
    assert {name: each - answered() - TURNED_OFF.get(name, set()) for name, each in found.items()} == {
        name: set() for name in found
    }
    assert answered() <= set().union(*found.values())


def findings(rendered: Rendered) -> set[str]:
    """The names of the checks of which the scorer says anything worse than that all is well."""
    command = [str(tool("kube-score")), "score", "--kubernetes-version=v1.33", "--output-format=json", "-"]
    done = subprocess.run(command, input=rendered.text, capture_output=True, text=True, check=False, timeout=60)
    scored = json.loads(done.stdout)
    return {
        check["check"]["id"]
        for each in scored
        for check in each["checks"] or ()
        if not check["skipped"] and check["grade"] < 10
    }
