"""The server is started from a process whose threads are in gRPC, whose fork handlers would crash a forked child."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest

from stepwell_server.embedded import EmbeddedPostgres
from stepwell_server.embedded.account import account_for

RESTARTS, CALLERS = 6, 20


class Echo(grpc.GenericRpcHandler):
    """Answers what it is sent."""

    def service(self, handler_call_details: Any) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


class Load:
    """Calls over a channel of this process's own to a server of this process's own, without a pause."""

    def __init__(self) -> None:
        self._answered = asyncio.Condition()
        self._calls = 0

    async def call(self, call: Any) -> None:
        while True:
            await call(b"x")
            async with self._answered:
                self._calls += 1
                self._answered.notify_all()

    async def more(self) -> None:
        """Returns once further calls have been answered."""
        async with asyncio.timeout(60), self._answered:
            goal = self._calls + CALLERS
            await self._answered.wait_for(lambda: self._calls >= goal)


@asynccontextmanager
async def load() -> AsyncIterator[Load]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    made = Load()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        callers = [asyncio.create_task(made.call(channel.unary_unary("/echo.Echo/Echo"))) for _ in range(CALLERS)]
        try:
            yield made
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
    await server.stop(0)


async def test_is_restarted_beside_grpc(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Kill after kill under load: the first attempt to start it again always succeeds."""
    async with load() as calls, EmbeddedPostgres(data_dir, durable=False) as postgres:
        for kill in range(RESTARTS):
            await calls.more()
            os.kill(postgres.pid, signal.SIGKILL)
            await asyncio.wait_for(postgres.wait_restarted(beyond=kill), 60)
        connection = await asyncpg.connect(postgres.url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert [record.message for record in caplog.records if "did not come back" in record.message] == []


async def test_runs_programs_beside_grpc(tmp_path: Path) -> None:
    """Short programs as another account (or our own) all end as they should."""
    account = account_for(tmp_path / "no cluster")
    async with load() as calls:
        codes = []
        for _ in range(30):
            await calls.more()
            codes.append((await asyncio.to_thread(account.run, ["/bin/sh", "-c", "exit 3"])).returncode)
    assert codes == [3] * 30


def test_tells_what_cannot_be_run(tmp_path: Path) -> None:
    """A program that is not there is an exit code, and a reason for a person."""
    answer = account_for(tmp_path / "no cluster").run([str(tmp_path / "nothing")])
    assert answer.returncode == 126
    assert "nothing" in answer.stderr
