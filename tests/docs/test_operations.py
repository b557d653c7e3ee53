"""The handbook's pages about watching and debugging: their commands are run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from tests import warm
from tests.docs.documents import ADDRESS, Document
from tests.docs.test_documents import DOCS, OWN_DATABASE, ROOT, grpcurl

from stepwell.v1.explanations_pb2 import Explanation
from stepwell_server.service import Service
from stepwell_server.settings import Settings
from stepwell_server.telemetry import serve_metrics

__all__ = ["grpcurl"]  # a fixture
METRICS = "127.0.0.1:9464"


@pytest.mark.parametrize("name", ["watch", "debug"])
async def test_the_pages_are_true(name: str, database_url: str, grpcurl: Path, tmp_path: Path) -> None:
    port, stop = serve_metrics(0)
    try:
        async with Service(Settings(database_url=database_url, port=0, shutdown_seconds=2.0)) as service:
            await service.leader.wait_elected()
            replaced = {ADDRESS: service.address, METRICS: f"127.0.0.1:{port}", OWN_DATABASE: database_url}
            programs = [grpcurl, warm.command().parent, Path(sys.executable).parent]
            document = Document(DOCS / f"operations/{name}.md", tmp_path, replaced, programs)
            assert await document.carry_out() >= 4
    finally:
        stop()


def test_each_alert_has_a_chapter_and_each_chapter_an_alert() -> None:
    rules = yaml.safe_load((ROOT / "deploy/helm/stepwell/alerts/stepwell.yaml").read_text())["groups"]
    chapters = re.findall(r"^### (Stepwell\w+)$", (DOCS / "operations/watch.md").read_text(), re.MULTILINE)
    assert chapters == [rule["alert"] for group in rules for rule in group["rules"]]


def test_each_reason_not_to_move_is_told_of() -> None:
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \|", (DOCS / "operations/debug.md").read_text(), re.MULTILINE)
    told = {word for row in rows for word in re.findall(r"[A-Z_]+", row)}
    every = {name.removeprefix("CODE_") for name in Explanation.Code.DESCRIPTOR.values_by_name}
    assert told | {"UNSPECIFIED", "ENDED", "CANCEL_REQUESTED"} == every
