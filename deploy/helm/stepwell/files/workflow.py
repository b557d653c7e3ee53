"""Runs one workflow to its end, by a worker of its own: what `helm test` does."""

import asyncio
import os
import sys
import uuid
from pathlib import Path

import grpc

from stepwell import Client, Context, Worker, activity, workflow

ADDRESS = os.environ["STEPWELL_ADDRESS"]
SECONDS = float(os.environ.get("TEST_SECONDS", "60"))
# One who may work need not be one who may start, nor the other way round.
WORKER_KEY = os.environ.get("TEST_WORKER_KEY") or None
TLS_FOLDER = os.environ.get("TEST_TLS_FOLDER")
SHOWS_CERTIFICATE = os.environ.get("TEST_TLS_CLIENT") == "true"
QUEUE = "helm-test"
GIVEN, WANTED = 20, 41


@activity
def add(number: int) -> int:
    """Adds one."""
    return number + 1


@workflow
async def count(ctx: Context, number: int) -> int:
    """Goes through a step, a timer and an activity."""
    number = await ctx.step("double", lambda: 2 * number)
    await ctx.sleep(0.1)
    return await ctx.activity(add, number)


def credentials() -> grpc.ChannelCredentials | None:
    """Those of TLS, if the service speaks it: an authority, and a certificate where there is one."""
    if TLS_FOLDER is None:
        return None
    authority, key, certificate = (Path(TLS_FOLDER, name) for name in ("ca.crt", "tls.key", "tls.crt"))
    return grpc.ssl_channel_credentials(
        authority.read_bytes() if authority.exists() else None,
        key.read_bytes() if SHOWS_CERTIFICATE else None,
        certificate.read_bytes() if SHOWS_CERTIFICATE else None,
    )


async def main() -> None:
    """Starts a worker and a run, and waits for its end."""
    name = f"helm-test-{uuid.uuid4().hex[:8]}"
    tls = credentials()
    async with (
        await Client.connect(ADDRESS, credentials=tls) as client,
        await Client.connect(ADDRESS, credentials=tls, api_key=WORKER_KEY) as working,
    ):
        worker = Worker(working, QUEUE, workflows=[count], activities=[add])
        work = asyncio.create_task(worker.run())
        run = await client.start_run(count, GIVEN, task_queue=QUEUE, workflow_id=name)
        result = await run.result()
        worker.shutdown()
        await work
    if result != WANTED:
        sys.exit(f"the run {name} came to {result!r}, not to {WANTED}")
    print(f"the run {name} ended as it should")


asyncio.run(asyncio.wait_for(main(), SECONDS))
