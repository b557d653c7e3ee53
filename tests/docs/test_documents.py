"""What the documents show is what happens: each command is run, each answer compared, each figure computed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tests import warm
from tests.databases import drop_database
from tests.docs.documents import ADDRESS, CLUSTER, Document, blocks
from tests.main.program import outcome
from tests.upgrades.dumps import folder_for

from stepwell.v1 import types_pb2
from stepwell_server.engine.order import chain
from stepwell_server.service import Service
from stepwell_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TOOLS = ROOT / ".cache/tools/bin"
# How many blocks of a page only a cluster can run. They are not tried, so they shall not become more unseen.
FOR_A_CLUSTER = {"operations/debug.md": 1, "operations/install.md": 8, "operations/upgrade.md": 1}
OWN_DATABASE = "postgresql://stepwell:secret@db.example:5432/stepwell"
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_HASH = re.compile(r"^\| (\d+) \|(?: `(\w+)`)? \|(?: `(.+?)`)? \| `([0-9a-f]{16})` \| `([\w+/=]+)` \|$", re.MULTILINE)


@pytest.fixture
def grpcurl() -> Path:
    """The folder of the real grpcurl."""
    if not (TOOLS / "grpcurl").exists():
        if os.environ.get("CI"):
            pytest.fail("grpcurl is missing: run `make tools`")
        pytest.skip("grpcurl is missing; `make tools` builds it")
    return TOOLS


@asynccontextmanager
async def serving(database_url: str) -> AsyncIterator[Service]:
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0)
    async with Service(settings) as service:
        yield service


@pytest.mark.parametrize("name", ["unary", "stream"])
async def test_transcripts_are_true(name: str, database_url: str, grpcurl: Path, tmp_path: Path) -> None:
    async with serving(database_url) as service:
        path = DOCS / "transcripts" / f"{name}.md"
        document = Document(path, tmp_path, {ADDRESS: service.address}, [grpcurl])
        assert await document.carry_out() > 10


async def test_the_readme_is_true(database_url: str, empty_database_url: str, grpcurl: Path, tmp_path: Path) -> None:
    async with serving(database_url) as service:
        replaced = {ADDRESS: service.address, OWN_DATABASE: empty_database_url}
        document = Document(ROOT / "README.md", tmp_path, replaced, [grpcurl, Path(sys.executable).parent])
        assert await document.carry_out() > 5


@pytest.mark.parametrize(
    "name",
    [
        "lists",
        "queues",
        "flow_control",
        "asking",
        "branches",
        "jobs",
        "changing",
        "topics",
        "finding",
        "retention",
        "definitions",
        "transactions",
        "user_tasks",
    ],
)
async def test_the_pages_for_users_are_true(name: str, database_url: str, grpcurl: Path, tmp_path: Path) -> None:
    async with serving(database_url) as service:
        programs = [grpcurl, warm.command().parent, Path(sys.executable).parent]
        document = Document(DOCS / f"{name}.md", tmp_path, {ADDRESS: service.address}, programs)
        assert await document.carry_out() >= 5


async def test_the_page_about_keys_is_true(database_url: str, grpcurl: Path, tmp_path: Path) -> None:
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0, require_keys=True)
    async with Service(settings) as service:
        replaced = {ADDRESS: service.address, OWN_DATABASE: database_url, "7243": str(_free_port())}
        document = Document(DOCS / "security.md", tmp_path, replaced, [grpcurl, Path(sys.executable).parent])
        try:
            assert await document.carry_out() > 5
        finally:
            _end_server(tmp_path / "server.pid")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _end_server(pid: Path) -> None:
    """The one that a document has started and, if it did not come to its end, not ended."""
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("name", ["upgrade", "backup"])
async def test_the_pages_about_the_database_are_true(
    name: str, database_url: str, server_url: str, grpcurl: Path, tmp_path: Path
) -> None:
    """In a database of their own, and in one that is made from its backup."""
    restored, elsewhere = f"restored_{uuid.uuid4().hex[:12]}", OWN_DATABASE.removesuffix("/stepwell")
    replaced = {
        OWN_DATABASE: f"'{database_url}'",
        f"{elsewhere}/postgres": f"'{server_url}'",
        f"{elsewhere}/restored": f"'{database_url.replace(urlsplit(database_url).path, f'/{restored}')}'",
        "DATABASE restored": f"DATABASE {restored}",
    }
    programs = [await folder_for(server_url), Path(sys.executable).parent]
    try:
        assert await Document(DOCS / "operations" / f"{name}.md", tmp_path, replaced, programs).carry_out() >= 4
    finally:
        await drop_database(server_url, restored)


async def test_the_page_about_installing_is_true(
    database_url: str, grpcurl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (TOOLS / "helm").exists() and not os.environ.get("CI"):
        pytest.skip("helm is missing; `make tools` builds it")
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0, require_keys=True)
    async with Service(settings) as service:
        command = ("keys", "create", "--role", "admin", "--output", "json")
        code, said = await outcome(*command, DATABASE_URL=database_url)
        assert code == 0
        monkeypatch.setenv("KEY", json.loads(said)["secret"])
        replaced = {ADDRESS: service.address, " deploy/helm/stepwell": f" {ROOT / 'deploy/helm/stepwell'}"}
        document = Document(DOCS / "operations/install.md", tmp_path, replaced, [grpcurl])
        assert await document.carry_out() >= 5


def test_commands_for_a_cluster_are_counted() -> None:
    """Those that are not run are commands of a cluster, and no more than are known."""
    pages = {str(path.relative_to(DOCS)): blocks(path) for path in sorted(DOCS.rglob("*.md"))}
    found = {name: [block for block in each if block.duty == CLUSTER] for name, each in pages.items()}
    counts = {name: len(each) for name, each in found.items() if each}
    print(f"{sum(counts.values())} blocks for a cluster: {counts}")
    assert counts == FOR_A_CLUSTER
    for block in (block for each in found.values() for block in each):
        assert block.language == "sh"
        assert re.search(r"\b(kubectl|helm|docker)\b", block.text), block.text


def test_the_worker_in_the_readme_is_short() -> None:
    (worker, *_) = (block for block in blocks(ROOT / "README.md") if block.language == "python")
    assert len([line for line in worker.text.splitlines() if line.strip()]) <= 20


def test_the_example_of_the_order_hash_is_right() -> None:
    """Each line of the table in the protocol follows from the one before."""
    lines = _HASH.findall((DOCS / "protocol.md").read_text())
    assert len(lines) >= 4
    before = bytes(8)
    for place, (count, kind, name, digest, encoded) in enumerate(lines):
        assert int(count) == place
        if place:
            before = chain(before, types_pb2.StepKind.Value(f"STEP_KIND_{kind}"), name)
        assert before.hex() == digest
        assert before == base64.b64decode(encoded)


def test_states_are_current() -> None:
    command = [sys.executable, "tools/states.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    broken = [
        target
        for target, _ in _LINK.findall(path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_nothing_is_promised_exactly_once(path: Path) -> None:
    """At least once delivered, recorded once: nobody can promise more."""
    assert re.search(r"exactly[- ]once", path.read_text(), re.IGNORECASE) is None
