"""The command: what it prints, how it ends, and what its errors say."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sdk.fake_service import FakeService

from stepwell import Context, workflow

Working = Callable[..., Any]
COMMAND = Path(sys.executable).with_name("stepwell")


@workflow
async def echo(ctx: Context, value: Any) -> Any:
    if value == "fail":
        raise ValueError("as asked")
    return value


async def _stepwell(address: str, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        COMMAND, "--address", address, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_start_and_wait(service: FakeService, working: Working) -> None:
    """JSON goes in and comes out; a run that fails is an exit code."""
    async with working(workflows=[echo]):
        start = ("run", "start", "echo", "--wait", "-o", "json", "--input")
        code, out, _ = await _stepwell(service.address, *start, '{"a": 1}')
        assert (code, json.loads(out)) == (0, {"phase": "COMPLETED", "result": {"a": 1}})
        code, out, _ = await _stepwell(service.address, *start, '"fail"')
        assert (code, json.loads(out)["failure"]["type"]) == (1, "ValueError")


async def test_errors_say_what_to_do(service: FakeService) -> None:
    """On standard error, without a trace."""
    unknown = "00000000-0000-7000-8000-000000000000"
    code, out, err = await _stepwell(service.address, "run", "show", unknown)
    assert (code, out) == (1, "")
    assert "stepwell run list" in err
    code, _, err = await _stepwell(service.address, "run", "start", "echo", "--input", "{not json")
    assert code == 1
    assert "not JSON" in err
    assert "Traceback" not in err
