"""The reference: every RPC has an example that is carried out, an SDK method, and a command or a reason for none."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tests import warm
from tests.docs.documents import ADDRESS, Document
from tests.docs.test_documents import ROOT, grpcurl
from tests.parity.cases import MIRRORED
from tests.parity.classes import found

from stepwell.cli.app import app
from stepwell_server.service import Service
from stepwell_server.settings import Settings

sys.path.insert(0, str(ROOT / "tools"))
reference: Any = importlib.import_module("reference")

__all__ = ["grpcurl"]
SERVICES = {service.name: service for _, _, service in reference.services()}
RPCS = [(name, method.name) for name, service in SERVICES.items() for method in service.method]
CLASSES = {rpc: [found(*key) for key in MIRRORED if rpc in MIRRORED[key]] for _, rpc in RPCS}
"""The methods of the stores' classes that are answered by an RPC."""


@pytest.mark.parametrize("service", SERVICES)
async def test_its_examples_are_true(service: str, database_url: str, grpcurl: Path, tmp_path: Path) -> None:
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0, test_clock=service == "ClockService")
    async with Service(settings) as running:
        programs = [grpcurl, warm.command().parent]
        document = Document(reference.PAGES / f"{service}.md", tmp_path, {ADDRESS: running.address}, programs)
        assert await document.carry_out() >= 1


@pytest.mark.parametrize(("service", "rpc"), RPCS)
def test_each_rpc_is_shown_in_every_way(service: str, rpc: str) -> None:
    examples = reference.examples_of(service)
    assert rpc in examples, f"no example in docs/reference/examples/{service}.toml"
    example = examples[rpc]
    unknown = set(example) - {"request", "answer", "goes_on", "transcript", "sdk", "no_sdk", "command", "no_command"}
    assert unknown == set()
    assert example.get("sdk") or any(CLASSES[rpc]) or example.get("no_sdk"), "no SDK method, and no reason for that"
    for path in example.get("sdk", []):
        assert callable(looked_up(path)), path
    if "transcript" in example:
        shown = (reference.PAGES / example["transcript"]).read_text()
        command = f"stepwell {example['command']} " if "command" in example else "nothing"
        assert rpc in shown or command in shown, "the page does not show it"
    reason = example.get("no_command") or examples.get("before", {}).get("no_command")
    assert bool(reason) is not ("command" in example), "a command, or a reason why nobody would want one"
    if "command" in example:
        assert is_command(example["command"]), example["command"]


def looked_up(path: str) -> Any:
    """What stands below `stepwell`: module, class and method."""
    module, name, method = path.rsplit(".", 2)
    return getattr(getattr(importlib.import_module(f"stepwell.{module}" if module else "stepwell"), name), method)


def is_command(words: str) -> bool:
    """Whether the command of that name exists."""
    group: Any = typer.main.get_command(app)
    for word in words.split():
        group = group.get_command(None, word) if hasattr(group, "get_command") else None
    return group is not None


def test_no_example_is_of_nothing() -> None:
    for path in reference.EXAMPLES.glob("*.toml"):
        methods = {method.name for method in SERVICES[path.stem].method}
        assert set(reference.examples_of(path.stem)) - methods <= {"before"}


def test_the_reference_is_current() -> None:
    command = [sys.executable, "tools/reference.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
