"""Postgres stands still under load: what can't wait is refused, what was accepted is done, memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2, status_pb2
from tests.chaos import worker
from tests.chaos.kit import Process, connected, free_port, results, start_errands
from tests.chaos.test_database import looking, on_stage

from stepwell.v1 import runs_pb2, runs_pb2_grpc, types_pb2
from stepwell_server.embedded import EmbeddedPostgres

NOBODYS = "nobody works here"
ITEMS = 64
PAYLOAD = types_pb2.Payload(value=struct_pb2.Value(string_value="x" * 1_000))
ACTIVITIES = 4


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            found += [int(entry.parent.name)] if parent == pid else []
    return found


@contextlib.contextmanager
def standing_still(postgres: EmbeddedPostgres) -> Iterator[None]:
    """No process of the database does anything."""
    stopped = family(postgres.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def peak_bytes(process: Process) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


class Flood:
    """Many callers, each with one batch of starts after the other, who note what they were told."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = runs_pb2_grpc.RunServiceStub(channel)
        self.accepted: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.refusal = asyncio.Event()
        self.is_over = False

    async def caller(self) -> None:
        while not self.is_over:
            ids = [str(uuid.uuid4()) for _ in range(ITEMS)]
            starts = [
                runs_pb2.StartRunRequest(type="idle", task_queue=NOBODYS, run_id=run_id, input=PAYLOAD)
                for run_id in ids
            ]
            answer = await self._stub.BatchStartRuns(runs_pb2.BatchStartRunsRequest(requests=starts), timeout=120)
            for run_id, result in zip(ids, answer.results, strict=True):
                if result.HasField("started"):
                    self.accepted.add(run_id)
                else:
                    self._note(result.error)
            delays = [self._note(result.error) for result in answer.results if result.HasField("error")]
            if delays:
                self.refusal.set()
                await asyncio.sleep(max(delays))

    def _note(self, error: status_pb2.Status) -> float:
        """Answers the seconds after which it may be tried again."""
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        for detail in error.details:
            detail.Unpack(info)
            detail.Unpack(retry)
        self.refused[info.reason] += 1
        seconds: float = retry.retry_delay.ToTimedelta().total_seconds()
        assert seconds > 0
        return seconds


async def kept(url: str) -> set[str]:
    """The runs that are there."""
    async with looking(url) as connection:
        rows = await connection.fetch("SELECT run_id::text FROM stepwell.runs WHERE task_queue = $1", NOBODYS)
        assert len({row[0] for row in rows}) == len(rows), "a run is there twice"
        return {row[0] for row in rows}


async def stalled(tmp_path: Path, session_dir: Path, callers: int, seconds: float, **terms: str) -> tuple[Flood, int]:
    """A flood before, while and after the database stands still; answers it, and the growth of the service's memory."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with (
        on_stage(tmp_path, session_dir) as (postgres, scene),
        grpc.aio.insecure_channel(address) as channel,
    ):
        server = await scene.server(port, **terms)
        async with connected(address) as (client,):
            await scene.worker(address)
            handles = await start_errands(client, 6, ACTIVITIES)
            await scene.more(4)
            before = peak_bytes(server)
            flood = Flood(channel)
            calling = [asyncio.create_task(flood.caller()) for _ in range(callers)]
            with standing_still(postgres):
                until = time.monotonic() + seconds
                async with asyncio.timeout(60):
                    await flood.refusal.wait()
                await asyncio.sleep(until - time.monotonic())
            flood.is_over = True
            await asyncio.gather(*calling)
            grown = peak_bytes(server) - before
            assert await results(handles) == [worker.expected(ACTIVITIES)] * len(handles)
            # It goes on by itself.
            handles = await start_errands(client, 2, ACTIVITIES)
            assert await results(handles) == [worker.expected(ACTIVITIES)] * len(handles)
            assert await kept(scene.database_url) == flood.accepted
    return flood, grown


async def test_a_database_that_stands_still_under_a_flood(tmp_path: Path, session_dir: Path) -> None:
    """What finds the queue full is refused, with advice when to come again, and leaves nothing behind."""
    small = {"COMMITTER_QUEUE_COMMANDS": "256", "COMMITTER_BATCH_COMMANDS": "64"}
    flood, _ = await stalled(tmp_path, session_dir, 12, 0, **small)
    assert flood.refused.keys() == {"QUEUE_FULL"}


@pytest.mark.long
async def test_ten_seconds_of_stand_still_cost_bounded_memory(tmp_path: Path, session_dir: Path) -> None:
    """With the bounds as they are: 20,000 starts wait, of 1 KB each; some 5 KB are kept of each."""
    flood, grown = await stalled(tmp_path, session_dir, 1_000, 10)
    assert flood.refused.keys() == {"QUEUE_FULL"}
    assert grown < 400 * 1024 * 1024
