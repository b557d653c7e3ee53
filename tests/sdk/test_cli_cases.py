"""What the command-line cases of assay's own suite ask for, of our command."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from typing import Any

import pytest
import pytest_asyncio
from tests.sdk.test_cli import COMMAND
from tests.sdk.test_cli_live import stepwell
from tests.stream.kit import Replica, replica

from stepwell.v1 import runs_pb2


@pytest_asyncio.fixture
async def one(database_url: str) -> Any:
    async with replica(database_url) as made:
        yield made


@pytest.mark.parametrize("noun", ["run", "queue", "worker", "schedule", "job"])
async def test_a_list_of_nothing(one: Replica, noun: str) -> None:
    assert await stepwell(one, noun, "list", "-o", "json") == (0, "[]\n", "")


async def test_the_environment_standard_input_and_the_exit_codes(one: Replica) -> None:
    """Where it calls is said by variables; a run that is not there is 1, and a wait that is over is 2."""
    await one.namespace("other")
    known = {**os.environ, "STEPWELL_ADDRESS": one.service.address, "STEPWELL_NAMESPACE": "other"}

    async def command(*arguments: str, given: str = "") -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            COMMAND, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=known
        )
        out, _ = await process.communicate(given.encode())
        assert process.returncode is not None
        return process.returncode, out.decode()

    code, out = await command(
        "run", "start", "echo", "--workflow-id", "w", "--input", "-", "-o", "json", given='{"a": 1}'
    )
    run_id = json.loads(out)["run_id"]
    run = (await one.runs.GetRun(runs_pb2.GetRunRequest(namespace="-", run_id=run_id))).run
    assert (code, json.loads(run.input.json)) == (0, {"a": 1})
    code, out = await command("run", "show", "w", "-o", "json")
    assert (code, json.loads(out)["run_id"], json.loads(out)["namespace"]) == (0, run_id, "other")
    assert (await command("run", "show", "nothing"))[0] == 1
    assert (await command("run", "wait", "w", "--timeout", "0.1"))[0] == 2
    assert (await stepwell(one, "run", "show", "w"))[0] == 1, "main is another namespace"


async def test_namespaces_from_their_making_to_their_end(one: Replica) -> None:
    for arguments, code in (
        (("create", "other"), 0),
        (("create", "other"), 1),
        (("delete", "other"), 0),
        (("delete", "main"), 0),
    ):
        assert (await stepwell(one, "namespace", *arguments))[0] == code, arguments
    _, out, _ = await stepwell(one, "namespace", "list", "-o", "json")
    assert [each["name"] for each in json.loads(out)] == ["main"]


async def test_a_patch_of_nothing_is_refused(one: Replica) -> None:
    assert (await stepwell(one, "schedule", "create", "s", "t", "--cron", "@daily"))[0] == 0
    code, _, err = await stepwell(one, "schedule", "update", "s")
    assert (code, "Traceback" in err) == (1, False)
    assert err
