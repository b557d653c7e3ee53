"""The database is away, full, locked or takes no writes: nobody is judged meanwhile, and all goes on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import grpc
import grpc.aio
import pytest
from tests.chaos import worker
from tests.chaos.invariants import check
from tests.chaos.kit import Stage, connected, free_port, results, stage, start_errands, until
from tests.chaos.standby import Server, looking, server
from tests.service import refusal

from stepwell import Client
from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc, runs_pb2, runs_pb2_grpc, types_pb2
from stepwell_server.store import migrations

COUNT, ACTIVITIES = 6, 12
EXPECTED = worker.expected(ACTIVITIES)
SESSION_SECONDS = 3.0
# Activities begin before the database goes, and end after everybody could have been judged.
OUTAGE_SECONDS, HOLD_SECONDS = 2 * SESSION_SECONDS, 10.0
PATIENT = 8
TOLD = ["DEADLINE_EXCEEDED", "UNAVAILABLE", "DATABASE_UNAVAILABLE"]


@asynccontextmanager
async def playing(
    tmp_path: Path, data_dir: Path, hold_seconds: float = 0.05, replicas: int = 2, asked_for: str = "read-write"
) -> AsyncIterator[tuple[Server, Stage, list[Client]]]:
    """A Postgres of the test's own, replicas and a worker at each."""
    ports = [free_port() for _ in range(replicas)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(server(data_dir / "postgres"))
        url = postgres.url("chaos")
        await migrations.migrate(url)
        scene = await stack.enter_async_context(stage(tmp_path, url, hold_seconds))
        for port in ports:
            await scene.server(port, f"{url}?target_session_attrs={asked_for}")
        clients = await stack.enter_async_context(connected(*addresses))
        for address in addresses:
            await scene.worker(address, CHAOS_ACTIVITIES="20")
        yield postgres, scene, clients


async def nobody_was_judged(scene: Stage, client: Client, outage: contextlib.AbstractAsyncContextManager[None]) -> None:
    """Through an outage longer than a session no activity is interrupted, given to another or done again."""
    handle = await client.start_run(worker.patient, PATIENT, task_queue=worker.QUEUE)
    await until(lambda: len(scene.done()) == PATIENT)
    async with outage:
        await asyncio.sleep(OUTAGE_SECONDS)
        assert len(scene.done()) == PATIENT
    assert await results([handle]) == [worker.expected(PATIENT)]
    found = await check(scene.database_url, scene.done(), [handle.run_id])
    assert set(found) == {"other"}
    assert len(scene.done()) == PATIENT


@asynccontextmanager
async def away(postgres: Server) -> AsyncIterator[None]:
    """Killed, and not started again for a while."""
    await postgres.kill()
    yield
    await postgres.start()


@asynccontextmanager
async def without_writes(postgres: Server) -> AsyncIterator[None]:
    """As where a disk is nearly full, and a managed service takes care that it gets no fuller."""
    async with setting(postgres, "default_transaction_read_only", "on"):
        yield


@asynccontextmanager
async def setting(postgres: Server, name: str, value: str) -> AsyncIterator[None]:
    async with looking(postgres.url("postgres")) as look:
        await look.execute("SET default_transaction_read_only = off")
        await look.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await look.execute("SELECT pg_reload_conf()")
        yield
        await look.execute(f"ALTER SYSTEM RESET {name}")
        await look.execute("SELECT pg_reload_conf()")


@asynccontextmanager
async def locked(postgres: Server, table: str) -> AsyncIterator[None]:
    """A table that somebody holds for himself, as a careless migration does."""
    async with looking(postgres.url("chaos")) as look, look.transaction():
        await look.execute(f"LOCK TABLE stepwell.{table} IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.mark.long
async def test_away_for_longer_than_a_session(tmp_path: Path, data_dir: Path) -> None:
    async with playing(tmp_path, data_dir, HOLD_SECONDS) as (postgres, scene, clients):
        await nobody_was_judged(scene, clients[0], away(postgres))


@pytest.mark.long
async def test_no_writes_for_longer_than_a_session(tmp_path: Path, data_dir: Path) -> None:
    """The leader is there all the time, and must not hold the silence against anybody."""
    async with playing(tmp_path, data_dir, HOLD_SECONDS) as (postgres, scene, clients):
        await nobody_was_judged(scene, clients[0], without_writes(postgres))


@pytest.mark.long
async def test_sessions_locked_for_longer_than_a_session(tmp_path: Path, data_dir: Path) -> None:
    async with playing(tmp_path, data_dir, HOLD_SECONDS) as (postgres, scene, clients):
        await nobody_was_judged(scene, clients[0], locked(postgres, "sessions"))


async def test_callers_hear_that_no_writes_are_taken(tmp_path: Path, data_dir: Path) -> None:
    """UNAVAILABLE, for hot calls and cold ones; reads go on; and nobody asks Postgres without a pause."""
    # Any session will do, says the address, so that it is the write which is refused, as where a disk is full.
    async with playing(tmp_path, data_dir, replicas=1, asked_for="any") as (postgres, scene, (client,)):
        handles = await start_errands(client, COUNT, ACTIVITIES)
        await scene.more(10)
        async with without_writes(postgres):
            await until(lambda: "takes no writes" in (next(scene.folder.glob("server-*.log"))).read_text())
            before = await sessions_made(postgres)
            assert await refusals(client.address) == TOLD
            assert [run async for run in client.list_runs(limit=1)]
            # It was six times as many as with pauses.
            assert await sessions_made(postgres) - before < 40
        assert await results(handles) == [EXPECTED] * COUNT
        await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])


async def refusals(address: str) -> list[str]:
    """What callers hear of a hot write, which waits for better times as long as they do, and of a cold one."""
    async with grpc.aio.insecure_channel(address) as channel:
        # It may be done all the same, after its caller has given up.
        one = types_pb2.Payload(json="1")
        start = runs_pb2.StartRunRequest(type="errand", task_queue=worker.QUEUE, input=one)
        create = namespaces_pb2.CreateNamespaceRequest(namespace="other")
        with pytest.raises(grpc.aio.AioRpcError) as hot:
            await runs_pb2_grpc.RunServiceStub(channel).StartRun(start, timeout=2)
        cold = await refusal(namespaces_pb2_grpc.NamespaceServiceStub(channel).CreateNamespace(create, timeout=20))
        return [hot.value.code().name, *cold]


async def sessions_made(postgres: Server) -> int:
    """How many sessions there were, by Postgres' count."""
    async with looking(postgres.url("chaos")) as look:
        await look.execute("SELECT pg_stat_force_next_flush()")
        return int(await look.fetchval("SELECT sessions FROM pg_stat_database WHERE datname = 'chaos'"))


TERMINATE = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'chaos' AND pid <> pg_backend_pid()
"""


OURS_ARE_GONE = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'chaos'"


async def test_every_backend_terminated_again_and_again(tmp_path: Path, data_dir: Path) -> None:
    async with playing(tmp_path, data_dir) as (postgres, scene, clients):
        starting = asyncio.gather(*(start_errands(client, 3 * COUNT, ACTIVITIES) for client in clients))
        async with looking(postgres.url("postgres")) as look:
            for _ in range(8):
                await scene.more(10)
                assert await look.fetchval(TERMINATE)
        handles = [handle for started in await starting for handle in started]
        assert await results(handles) == [EXPECTED] * len(handles)
        await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])


@pytest.mark.long
async def test_a_restart_in_order(tmp_path: Path, data_dir: Path) -> None:
    """A fast shutdown, as for a new minor version."""
    async with playing(tmp_path, data_dir) as (postgres, scene, clients):
        starting = asyncio.gather(*(start_errands(client, 2 * COUNT, ACTIVITIES) for client in clients))
        await scene.more(10)
        await postgres.stop()
        await postgres.start()
        handles = [handle for started in await starting for handle in started]
        assert await results(handles) == [EXPECTED] * len(handles)
        await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])


@pytest.mark.long
@pytest.mark.parametrize("table", ["runs", "tasks"])
async def test_a_table_locked_for_seconds(tmp_path: Path, data_dir: Path, table: str) -> None:
    async with playing(tmp_path, data_dir) as (postgres, scene, clients):
        handles = [handle for client in clients for handle in await start_errands(client, COUNT, ACTIVITIES)]
        await scene.more(10)
        async with locked(postgres, table):
            await asyncio.sleep(SESSION_SECONDS)
        assert await results(handles) == [EXPECTED] * len(handles)
        await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])


async def test_no_connection_is_free(tmp_path: Path, data_dir: Path) -> None:
    """Others have taken all connections; callers hear UNAVAILABLE, and once they let go it goes on."""
    async with playing(tmp_path, data_dir) as (postgres, scene, clients), AsyncExitStack() as stack:
        handles = [handle for client in clients for handle in await start_errands(client, COUNT, ACTIVITIES)]
        await scene.more(10)
        look = await stack.enter_async_context(looking(postgres.url("postgres")))
        hogs: list[asyncpg.Connection] = []
        replicas = scene.processes[: len(clients)]
        # Stopped, they can't be quicker than the others.
        for replica in replicas:
            replica.send(signal.SIGSTOP)

        async def are_gone() -> bool:
            # One that was on its way comes after the others were ended.
            await look.execute(TERMINATE)
            return bool(await look.fetchval(OURS_ARE_GONE))

        await until(are_gone)
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                hogs.append(await asyncpg.connect(postgres.url("template1")))
        for replica in replicas:
            replica.send(signal.SIGCONT)
        assert await refusals(clients[0].address) == TOLD
        for hog in hogs:
            hog.terminate()
        assert await results(handles) == [EXPECTED] * len(handles)
        await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])
