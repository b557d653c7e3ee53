"""The chart as helm renders it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/stepwell"
TOOLS = ROOT / ".cache/tools"
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
Object = dict[str, Any]

# What stands in a release's folder beside what the chart brings: as those who write alerts and dashboards would.
ALERTS = """\
groups:
  - name: stepwell
    rules:
      - alert: NoLeader
        expr: sum(stepwell_leader) < 1
        annotations:
          summary: '{{ $labels.instance }} says {{ $value }}'
"""
DASHBOARD = '{\n  "title": "{{ not a template }}",\n  "panels": []\n}\n'


def tool(name: str) -> Path:
    """A program that `make tools` builds."""
    path = TOOLS / "bin" / name
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: run `make tools`")
        pytest.skip(f"{name} is missing; `make tools` builds it")
    return path


def helm(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm, away from any cluster."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    command = [str(tool("helm")), *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def template(
    *values: Path | Mapping[str, Any], chart: Path = CHART, version: str = "1.37.0"
) -> subprocess.CompletedProcess[str]:
    """What `helm template` prints for a release `stepwell` in a namespace `wells`. Later values go before earlier."""
    arguments: list[object] = ["template", "stepwell", chart, "--namespace=wells", f"--kube-version={version}"]
    given: dict[str, Any] = {}
    for each in values:
        given = merged(given, yaml.safe_load(each.read_text()) if isinstance(each, Path) else each)
    return helm(*arguments, "--values=-", stdin=yaml.safe_dump(given))


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values as helm merges them."""
    both = dict(under)
    for name, value in over.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


class Rendered:
    """The objects of a release."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.objects: list[Object] = [each for each in yaml.safe_load_all(text) if each]

    def all(self, kind: str) -> list[Object]:
        """Those of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = "stepwell") -> Object:
        """The one of a kind and a name."""
        (found,) = (each for each in self.all(kind) if each["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[str, Object]]:
        """The name and the spec of each pod, whoever makes it."""
        for each in self.objects:
            name = f"{each['kind']}/{each['metadata']['name']}"
            if each["kind"] == "Pod":
                yield name, each["spec"]
            elif "template" in each.get("spec", {}):
                yield name, each["spec"]["template"]["spec"]

    def containers(self) -> Iterator[tuple[str, Object]]:
        """All containers of all pods."""
        for name, pod in self.pods():
            for container in (*pod.get("initContainers", ()), *pod["containers"]):
                yield f"{name}/{container['name']}", container

    def server(self) -> Object:
        """The service's container."""
        (container,) = self.deployment()["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def deployment(self) -> Object:
        """The one there is."""
        (deployment,) = self.all("Deployment")
        return deployment

    def pod(self) -> Object:
        """The service's pod."""
        return dict(self.deployment()["spec"]["template"]["spec"])


def render(*values: Path | Mapping[str, Any], chart: Path = CHART, version: str = "1.37.0") -> Rendered:
    """The objects that the chart makes of these values."""
    done = template(*values, chart=chart, version=version)
    assert done.returncode == 0, done.stderr
    return Rendered(done.stdout)


def refusal(*values: Path | Mapping[str, Any]) -> str:
    """What helm says to values that it refuses."""
    done = template(*values)
    assert done.returncode != 0, done.stdout
    return done.stderr


def filled(folder: Path) -> Path:
    """A copy of the chart that has alerts and dashboards for certain."""
    copy = folder / "stepwell"
    shutil.copytree(CHART, copy)
    for name in ("alerts", "dashboards"):
        shutil.rmtree(copy / name, ignore_errors=True)
        (copy / name).mkdir()
    (copy / "alerts/leader.yaml").write_text(ALERTS)
    (copy / "dashboards/Over_View.json").write_text(DASHBOARD)
    return copy
