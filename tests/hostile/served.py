"""A server in a process of its own that asks for keys: what it says, how much memory it takes, whether it is well."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import asyncpg
import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.api.keyed import bearer
from tests.chaos.kit import Process, free_port, until
from tests.hostile.world import Metadata

from stepwell import Client, Context, Worker, workflow
from stepwell_server.model.api_keys import Role, make_key
from stepwell_server.settings import Settings
from stepwell_server.store import api_keys
from stepwell_server.store.database import Database
from stepwell_server.store.namespaces import Namespaces

SERVING = health_pb2.HealthCheckResponse.SERVING
LOUD = {"error", "critical"}


class Served:
    """See the module. `channel` is to it."""

    def __init__(self, process: Process, port: int, metrics_port: int, database_url: str) -> None:
        self.process = process
        self.address = f"127.0.0.1:{port}"
        self.port = port
        self.database_url = database_url
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self._keys: dict[tuple[Role, str | None], Metadata] = {}
        self._database = Database(Settings(database_url=database_url))
        self.channel: Any = None

    async def key(self, role: Role, namespace: str | None) -> Metadata:
        """The metadata of a caller; made in the database, as `stepwell-server keys create` does."""
        if (role, namespace) not in self._keys:
            namespace_id = None
            if namespace is not None:
                namespace_id = await Namespaces(self._database).id_of(namespace)
            # Of the database's own time, to which the server is aligned.
            async with self._database.pool.begin() as connection:
                now = (await connection.exec_driver_sql("SELECT now()")).scalar_one()
            key, secret = make_key(role, "", namespace_id, now, None)
            await api_keys.create(self._database, key, namespace or "-")
            self._keys[role, namespace] = bearer(secret)
        return self._keys[role, namespace]

    def memory(self) -> int:
        """Bytes that the process has in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def complaints(self) -> list[dict[str, Any]]:
        """What it wrote that tells of a fault of its own, or is no line of a log at all."""
        lines = []
        for raw in self.process.log.read_text().rpartition("\n")[0].splitlines():
            try:
                line: dict[str, Any] = json.loads(raw)
            except ValueError:
                line = {"level": "error", "event": raw}
            if line.get("level") in LOUD:
                lines.append(line)
        return lines

    async def gauge(self, name: str) -> float:
        """A metric without labels."""

        def read() -> str:
            with urlopen(self._metrics, timeout=10) as response:  # noqa: S310 - of this machine
                return str(response.read().decode())

        text = await asyncio.to_thread(read)
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    async def health(self) -> int:
        request = health_pb2.HealthCheckRequest()
        return int((await health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=30)).status)

    async def is_well(self) -> None:
        """It serves, no stream is left, it complained of nothing, and a run runs."""
        assert self.process.process.returncode is None
        assert await self.health() == SERVING

        async def no_stream() -> bool:
            return await self.gauge("stepwell_streams") == 0

        await until(no_stream)
        assert await self.runs_a_run() == 42
        complaints = self.complaints()
        assert not complaints, complaints[:5]

    async def runs_a_run(self) -> int:
        """Starts a run, works for it, and answers its result."""

        @workflow
        async def well(ctx: Context, number: int) -> int:
            return int(await ctx.step("double", lambda: number * 2))

        secret = (await self.key(Role.ADMIN, None))[0][1].removeprefix("Bearer ")
        async with await Client.connect(self.address, api_key=secret, call_timeout=60) as client:
            worker = Worker(client, "well", workflows=[well], drain_seconds=1)
            running = asyncio.create_task(worker.run())
            try:
                handle = await client.start_run(well, 21, task_queue="well")
                async with asyncio.timeout(60):
                    result: int = await handle.result()
            finally:
                worker.shutdown()
                async with asyncio.timeout(60):
                    await running
        return result

    async def close(self) -> None:
        await self._database.close()


@asynccontextmanager
async def served(folder: Path, database_url: str, **settings: str) -> AsyncIterator[Served]:
    port, metrics_port = free_port(), free_port()
    given = {
        "DATABASE_URL": database_url,
        "REQUIRE_KEYS": "true",
        "METRICS_PORT": str(metrics_port),
        "SHUTDOWN_SECONDS": "1",
        "SESSION_SECONDS": "6",
        "HEARTBEAT_SECONDS": "2",
        "LOG_LEVEL": "warning",
        **settings,
    }
    command = ("-m", "stepwell_server.main", "serve", "--port", str(port))
    variables = {f"STEPWELL_{name}": value for name, value in given.items()}
    process = await Process.start(folder / f"served-{port}.log", *command, **variables)
    made = Served(process, port, metrics_port, database_url)
    try:
        async with grpc.aio.insecure_channel(made.address) as made.channel:

            async def is_up() -> bool:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return bool(await made.health() == SERVING)
                return False

            await until(is_up)
            yield made
    finally:
        await made.close()
        await process.end()


async def rows_of(database_url: str, namespace: str) -> dict[str, list[str]]:
    """All rows of a namespace, of its runs and of its jobs, as text."""
    connection = await asyncpg.connect(database_url)
    try:
        mine = [key for (key,) in await connection.fetch(_KEYS, namespace)]
        found: dict[str, list[str]] = {}
        for table, by in await connection.fetch(_COLUMNS):
            if by == "namespace_id":
                where = "t.namespace_id = (SELECT namespace_id FROM stepwell.namespaces WHERE name = $1)"
            else:
                where = f"t.{by} = ANY($1)"
            text = f"SELECT t::text FROM stepwell.{table} t WHERE {where} ORDER BY 1"  # noqa: S608 - names of ours
            found[table] = [row for (row,) in await connection.fetch(text, namespace if by == "namespace_id" else mine)]
        return {table: rows for table, rows in found.items() if rows}
    finally:
        await connection.close()


_COLUMNS = """
    SELECT DISTINCT ON (c.relname) c.relname, a.attname
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'stepwell'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND a.attname IN ('namespace_id', 'run_key', 'job_key')
    ORDER BY c.relname, array_position(ARRAY['namespace_id', 'run_key', 'job_key'], a.attname::text)
"""
_KEYS = """
    WITH mine AS (SELECT namespace_id FROM stepwell.namespaces WHERE name = $1)
    SELECT run_key FROM stepwell.run_ids WHERE namespace_id = (TABLE mine)
    UNION SELECT job_key FROM stepwell.job_ids WHERE namespace_id = (TABLE mine)
"""
