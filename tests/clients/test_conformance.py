"""The conformance kit: each client's worker passes it, and each broken worker is caught."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.clients.broken_worker import FAULTS
from tests.docs.documents import Document
from tools import conformance as tool

from stepwell import conformance
from stepwell.conformance import Service

ROOT = Path(__file__).resolve().parents[2]
BROKEN = Path(__file__).with_name("broken_worker.py")
SECONDS = 540
LANES = 6


@pytest_asyncio.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with Service() as started:
        yield started


async def _failed(service: Service, name: str, *, is_quick: bool) -> list[str]:
    language = tool.LANGUAGES[name]
    cases = conformance.chosen(language.only, is_quick=is_quick)
    assert len(cases) > 20
    results = await conformance.run_on(service, language.command, cases, lambda _: None)
    return [f"{each.case.name}: {each.broken} {each.log} {[*map(str, each.said)]}" for each in results if each.broken]


@pytest.mark.timeout(SECONDS)
async def test_python_passes(service: Service) -> None:
    assert not await _failed(service, "python", is_quick=True)


@pytest.mark.long
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", [name for name in tool.LANGUAGES if name != "python"])
async def test_others_pass(name: str, service: Service) -> None:
    if missing := tool.lacking(name):
        told = f"{missing} is not here: {name} has no conformance worker to run"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(told)
    with tool.alone(name):
        await asyncio.to_thread(tool.build, name)
        assert not await _failed(service, name, is_quick=True)


@pytest.mark.long
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", tool.LANGUAGES)
async def test_what_takes_long_passes(name: str, service: Service) -> None:
    if missing := tool.lacking(name):
        pytest.skip(f"{missing} is not here to run the conformance worker of {name}")
    language = tool.LANGUAGES[name]
    cases = [each for each in conformance.chosen(language.only) if each.is_long]
    with tool.alone(name):
        await asyncio.to_thread(tool.build, name)
        results = await conformance.run_on(service, language.command, cases, lambda _: None)
    assert not [f"{each.case.name}: {each.broken} {each.log}" for each in results if each.broken]


@pytest.mark.timeout(SECONDS)
async def test_each_broken_worker_is_caught(service: Service) -> None:
    """By the case that is about what is broken in it."""
    turns = asyncio.Semaphore(LANES)

    async def caught(fault: str, case: str) -> bool:
        command = (sys.executable, str(BROKEN), fault)
        async with turns:
            results = await conformance.run_on(
                service, command, [conformance.CASES[case]], lambda _: None, patience=6.0
            )
        return not results[0].has_passed and "can be carried out" not in str(results[0].broken)

    found = await asyncio.gather(*(caught(fault, case) for fault, (case, _) in FAULTS.items()))
    assert [fault for fault, was_caught in zip(FAULTS, found, strict=True) if not was_caught] == []


async def test_the_command_tells_programs_and_refuses_what_is_none() -> None:
    code, said, _ = await _command("--only", "activities", "--output", "json", "--list")
    told = json.loads(said)
    assert code == 0
    assert {each["kind"] for each in told} == {"activities"}
    assert told[0]["protocol"] == "docs/protocol.md#activities"
    for arguments in (("--case", "no-such-case"), ("--case", "queries", "--only", "activities"), ()):
        code, _, said = await _command(*arguments)
        assert code == 1
        assert said.startswith("error: ")


async def _command(*arguments: str) -> tuple[int | None, str, str]:
    pipe = asyncio.subprocess.PIPE
    program = Path(sys.executable).with_name("stepwell")
    process = await asyncio.create_subprocess_exec(program, "conformance", *arguments, stdout=pipe, stderr=pipe)
    said, wrong = await process.communicate()
    return process.returncode, said.decode(), wrong.decode()


def test_each_case_says_what_it_does_and_where_that_is_asked_for() -> None:
    headings = {
        line.lstrip("# ").lower().replace(" ", "-").replace(":", "")
        for line in (ROOT / "docs/protocol.md").read_text().splitlines()
        if line.startswith("#")
    }
    for case in conformance.CASES.values():
        assert case.about.endswith(".")
        assert len(case.about) < 125, case.name
        assert case.link.partition("#")[2] in headings, case.link


def test_the_page_tells_of_the_kit_s_cases() -> None:
    page = tool.PAGE.read_text()
    assert tool.untrue(page) == []
    assert tool.untrue(page.replace("| passed |", "| perhaps |", 1))
    assert tool.untrue(page.replace("[pings]", "[pongs]"))


async def test_the_page_is_true(tmp_path: Path) -> None:
    worker = "clients/python/conformance/worker.py"
    replaced = {worker: str(ROOT / worker)}
    document = Document(ROOT / "docs/conformance.md", tmp_path, replaced, [Path(sys.executable).parent])
    assert await document.carry_out() >= 4
