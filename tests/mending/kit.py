"""What the tests of mended runs share: looking at runs until they are as wanted, and at what they recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests import warm
from tests.stream.kit import until

from stepwell import Client
from stepwell.runs import RunHandle
from stepwell.v1 import runs_pb2, types_pb2

QUEUE = "q"


async def described(handle: RunHandle[Any], holds: Callable[[runs_pb2.Run], bool]) -> runs_pb2.Run:
    """The run once it is as wanted."""
    found: runs_pb2.Run = await until(handle.describe, holds)
    return found


async def paused(handle: RunHandle[Any]) -> runs_pb2.Run:
    return await described(handle, lambda run: run.HasField("pause"))


async def suspended(handle: RunHandle[Any]) -> runs_pb2.Run:
    return await described(handle, lambda run: run.phase == types_pb2.RUN_PHASE_SUSPENDED)


async def ended(handle: RunHandle[Any]) -> runs_pb2.Run:
    return await described(handle, lambda run: run.phase >= types_pb2.RUN_PHASE_COMPLETED)


async def recorded(handle: RunHandle[Any]) -> list[tuple[str, str, str]]:
    """The steps of a run as they are: branch, name, state."""
    return [
        (step.scope, step.name, types_pb2.StepState.Name(step.state).removeprefix("STEP_STATE_"))
        async for step in handle.steps()
    ]


async def happened(handle: RunHandle[Any]) -> list[str]:
    """The kinds of a run's events."""
    return [event.type async for event in handle.history()]


async def stepwell(client: Client, *arguments: str) -> str:
    """What the command prints."""
    process = await asyncio.create_subprocess_exec(
        warm.command(),
        "--address",
        client.address,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
