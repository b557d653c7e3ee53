"""The chart's values: each is explained and stands in the schema, and what is no value is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml
from tests.deploy.chart import CHART, ROOT, helm, refusal, render
from tools import chart

TEXT = (CHART / "values.yaml").read_text()
LEAST = {"database": {"existingSecret": "stepwell-database"}}
KEYS = chart.own_keys(TEXT)


def leaves(values: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """All paths of a map of values that are no maps, or empty ones."""
    if not isinstance(values, dict) or not values:
        return {path}
    return {leaf for name, value in values.items() for leaf in leaves(value, (*path, name))}


def test_every_value_is_explained() -> None:
    assert [".".join(key.path) for key in KEYS if len(key.comment) < 4] == []


def test_every_value_is_known_to_the_schema() -> None:
    """No key of the file was overlooked by what reads its comments, but those that are the user's own."""
    known = {key.path for key in KEYS}
    free = {key.path for key in KEYS if chart.is_free(key.schema)}
    unknown = {
        leaf
        for leaf in leaves(yaml.safe_load(TEXT))
        if leaf not in known and not any(leaf[: len(path)] == path for path in free)
    }
    assert unknown == set()
    assert len(known) > 150


def test_the_schema_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/chart.py", "--check"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    [key.path for key in KEYS if not chart.is_free(key.schema) and key.schema.get("type") != ["array", "null"]],
    ids=".".join,
)
def test_every_value_has_a_type(path: tuple[str, ...]) -> None:
    """A map in the place of a scalar, or a text in the place of a map, is refused."""
    node = json.loads((CHART / "values.schema.json").read_text())
    for name in path:
        node = node["properties"][name]
    assert "type" in node or "enum" in node
    assert node["description"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 3}, "replicas"),
        ({"image": {"tagg": "1"}}, "tagg"),
        ({"database": {"url": "postgresql://u:p@h/d"}}, "url"),
        ({"database": {"password": "p"}}, "password"),
        ({"database": {"direct": {"password": "p"}}}, "password"),
        ({"settings": {"sesion_seconds": 3}}, "sesion_seconds"),
        ({"settings": {"session_seconds": "long"}}, "session_seconds"),
        ({"settings": {"database_url": "postgresql://u:p@h/d"}}, "database_url"),
        ({"settings": {"test_clock": True}}, "test_clock"),
        ({"settings": {"limits": {"page_item": 3}}}, "page_item"),
        ({"probes": {"liveness": {"period": 3}}}, "period"),
        ({"migrations": {"mode": "jobs"}}, "mode"),
        ({"tls": {"certManager": {"issuer": "x"}}}, "issuer"),
        ({"resources": {"limit": {}}}, "limit"),
        ({"replicaCount": "3"}, "replicaCount"),
        ({"terminationGracePeriodSeconds": "60"}, "terminationGracePeriodSeconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_typos_are_refused(values: dict[str, Any], said: str) -> None:
    told = refusal(LEAST, values)
    assert "values don't meet the specifications of the schema" in told
    assert said in told


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"database": {"existingSecret": ""}}, "database.existingSecret is not set"),
        (
            {"database": {"existingSecret": "", "poolUrlKey": "pool", "direct": {"host": "h"}}},
            "database.poolUrlKey names a key of database.existingSecret",
        ),
        ({"database": {"asFiles": True, "direct": {"host": "h"}}}, "set one of them"),
        ({"terminationGracePeriodSeconds": 44}, "it must be at least 45"),
        ({"terminationGracePeriodSeconds": 100, "shutdownSeconds": 90.5}, "it must be at least 106"),
        ({"tls": {"enabled": True}}, "tls.enabled needs a certificate"),
        ({"tls": {"existingSecret": "s"}}, "tls.enabled is false"),
        ({"tls": {"enabled": True, "existingSecret": "s", "certManager": {"enabled": True}}}, "from one of them"),
        ({"tls": {"enabled": True, "certManager": {"enabled": True}}}, "issuerRef.name is not set"),
        ({"autoscaling": {"enabled": True, "minReplicas": 9}}, "is more than autoscaling.maxReplicas"),
        ({"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": 0}}, "nothing to go by"),
        ({"grpcRoute": {"enabled": True}}, "grpcRoute.parentRefs is empty"),
        ({"ingress": {"enabled": True}}, "ingress.host is not set"),
        ({"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}}, "needs metrics.enabled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions_are_refused(values: dict[str, Any], said: str) -> None:
    assert said in refusal(LEAST, values)


def test_settings_become_variables() -> None:
    settings = {
        "session_seconds": 45,
        "timer_poll_seconds": 0.25,
        "committer_queue_bytes": 134217728,
        "log_level": "debug",
        "limits": {"payload_bytes": 4194304},
    }
    data = render(LEAST, {"settings": settings}).one("ConfigMap")["data"]
    assert data["STEPWELL_SESSION_SECONDS"] == "45"
    assert data["STEPWELL_TIMER_POLL_SECONDS"] == "0.25"
    assert data["STEPWELL_COMMITTER_QUEUE_BYTES"] == "134217728"
    assert data["STEPWELL_LOG_LEVEL"] == "debug"
    assert data["STEPWELL_LIMITS__PAYLOAD_BYTES"] == "4194304"


def test_another_chart_may_have_this_one_among_its_own() -> None:
    """Helm hands `global` down to it."""
    render(LEAST, {"global": {"region": "north"}})


def test_versions_are_the_products() -> None:
    told = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert told["version"] == told["appVersion"] == version
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert re.findall(r"stepwell-server:(\S+)|image\.version=\"(\S+)\"", dockerfile) == [(version, ""), ("", version)]


def test_the_package_has_no_values_of_tests(tmp_path: Any) -> None:
    done = helm("package", CHART, f"--destination={tmp_path}")
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    names = subprocess.run(["tar", "tzf", package], check=True, capture_output=True, text=True).stdout.splitlines()
    assert "stepwell/values.schema.json" in names
    assert "stepwell/files/workflow.py" in names
    assert [name for name in names if "/ci/" in name] == []
