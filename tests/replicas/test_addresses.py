"""Several replicas behind one address: a name that stands for all of them, a list of them, or a proxy before them."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.loops.rig import rig_settings
from tests.replicas.kit import Balancer
from tests.replicas.names import naming
from tests.stream.kit import until

from stepwell import Client, Context, Worker, _rpc, sync, workflow
from stepwell_server.api.interceptors.around import NOTHING, AroundCalls
from stepwell_server.api.interceptors.gate import Gate
from stepwell_server.service import Service


@workflow
async def echo(ctx: Context, value: int) -> int:
    return await ctx.step("same", lambda: value)


class Calls(AroundCalls):
    """Counts the service's own calls."""

    def __init__(self) -> None:
        self.count = 0

    def around(self, method: str, context: object) -> AbstractAsyncContextManager[None]:
        del context
        self.count += not method.startswith("/grpc.")
        return NOTHING


class Counted(Service):
    """A replica that counts what it is asked."""

    def __init__(self, *arguments: Any) -> None:
        self.calls = Calls()
        super().__init__(*arguments)

    def _interceptors(self) -> Sequence[Any]:
        return [self.calls, *super()._interceptors()]

    @property
    def streams(self) -> int:
        return sum(session.attached for session in self.dispatcher.sessions.values())

    def gate(self) -> Gate:
        return self._gate

    async def say(self, *, is_ready: bool) -> None:
        """Has health say so; calls are taken as before."""
        assert self._server is not None
        await self._server.ready(is_ready=is_ready)


def listed(replicas: Sequence[Counted]) -> str:
    return "ipv4:" + ",".join(replica.address for replica in replicas)


def asked(replicas: Sequence[Counted]) -> list[int]:
    counts = [replica.calls.count for replica in replicas]
    for replica in replicas:
        replica.calls.count = 0
    return counts


@asynccontextmanager
async def serving(database_url: str, count: int = 3, **settings: Any) -> AsyncIterator[list[Counted]]:
    async with AsyncExitStack() as stack:
        made = [Counted(rig_settings(database_url, **settings)) for _ in range(count)]
        yield [await stack.enter_async_context(each) for each in made]


async def call(client: Client, times: int) -> None:
    for _ in range(times):
        assert [queue async for queue in client.list_task_queues()] == []


async def settled(client: Client, replicas: Sequence[Counted], expected: int) -> None:
    """Calls until as many replicas take their turn as do."""
    async with asyncio.timeout(60):
        while sum(count > 0 for count in asked(replicas)) != expected:
            await call(client, 2 * len(replicas))


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The calls that the client had to repeat, by why."""
    seen: Counter[str] = Counter()
    backoff = _rpc.backoff

    def counted(attempt: int, error: Any) -> float:
        seen[str(error)] += 1
        return backoff(attempt, error)

    monkeypatch.setattr(_rpc, "backoff", counted)
    return seen


async def test_calls_go_round(database_url: str) -> None:
    async with serving(database_url) as replicas, await Client.connect(listed(replicas)) as client:
        await settled(client, replicas, 3)
        await call(client, 30)
        assert asked(replicas) == [10, 10, 10]


async def test_one_address_is_one_connection(database_url: str) -> None:
    async with serving(database_url, 2) as replicas, await Client.connect(replicas[0].address) as client:
        await call(client, 10)
        assert asked(replicas) == [10, 0]


async def test_who_is_not_ready_is_passed_over(database_url: str, repeats: Counter[str]) -> None:
    """By what its health says: before anything is refused, and nothing is asked twice."""
    async with serving(database_url) as replicas, await Client.connect(listed(replicas)) as client:
        await settled(client, replicas, 3)
        await replicas[1].say(is_ready=False)
        await settled(client, replicas, 2)
        replicas[1].gate().is_open = False
        await call(client, 30)
        assert asked(replicas)[1] == 0
        replicas[1].gate().is_open = True
        await replicas[1].say(is_ready=True)
        await settled(client, replicas, 3)
    assert not repeats


async def test_a_server_that_stops_is_left_before_it_refuses(database_url: str, repeats: Counter[str]) -> None:
    """It says so, and goes on for the time that is set; then nobody is there whom it could refuse."""
    async with serving(database_url, unready_seconds=1.0) as replicas, await Client.connect(listed(replicas)) as client:
        await settled(client, replicas, 3)
        stopping = asyncio.create_task(replicas[0].stop())
        while not stopping.done():
            await call(client, 6)
            await asyncio.sleep(0.01)
        asked(replicas)
        await call(client, 12)
        assert asked(replicas)[0] == 0
        replicas[0].stop = nothing  # type: ignore[method-assign]
    assert not repeats


async def nothing() -> None:
    """It has been stopped."""


@pytest.mark.parametrize("kind", ["list", "proxy"])
async def test_workers_are_spread(database_url: str, kind: str) -> None:
    """Each has one stream at one of them, and a run is done wherever it was started."""
    async with AsyncExitStack() as stack:
        replicas = await stack.enter_async_context(serving(database_url))
        balancer = await stack.enter_async_context(
            Balancer([int(replica.address.rsplit(":", 1)[1]) for replica in replicas])
        )
        address = listed(replicas) if kind == "list" else balancer.address
        clients = [await stack.enter_async_context(await Client.connect(address)) for _ in range(12)]
        workers = [Worker(client, "q", workflows=[echo]) for client in clients]
        working = [asyncio.create_task(worker.run()) for worker in workers]
        await until(lambda: sum(replica.streams for replica in replicas) == 12)
        assert sum(replica.streams > 0 for replica in replicas) >= 2
        handles = [await client.start_run(echo, place, task_queue="q") for place, client in enumerate(clients)]
        async with asyncio.timeout(60):
            assert [await handle.result() for handle in handles] == list(range(12))
        for worker in workers:
            worker.shutdown()
        await asyncio.gather(*working)


def free_everywhere(hosts: Sequence[str]) -> int:
    """A port that nobody listens on at any of these addresses."""
    while True:
        with socket.socket() as first:
            first.bind((hosts[0], 0))
            port: int = first.getsockname()[1]
            try:
                for host in hosts[1:]:
                    with socket.socket() as other:
                        other.bind((host, port))
            except OSError:
                continue
            return port


HOSTS = [f"127.0.0.{number}" for number in range(2, 8)]


@pytest.fixture
def at(database_url: str) -> Callable[..., Counted]:
    """Makes a replica at an address of its own, and the port of all."""
    port = free_everywhere(HOSTS)
    return lambda host, **settings: Counted(rig_settings(database_url, host=host, port=port, **settings))


async def test_a_name_whose_addresses_all_change(at: Callable[..., Counted]) -> None:
    """As those of a headless service do when all replicas are replaced, sooner than gRPC by itself would look again."""
    replicas = [at(host) for host in HOSTS[:2]]
    for replica in replicas:
        await replica.start()
        await replica.wait_ready()
    async with naming(HOSTS[:2]) as names:
        name = f"dns://127.0.0.1:{names.port}/stepwell.example:{replicas[0].settings.port}"
        async with await Client.connect(name, call_timeout=20) as client:
            await settled(client, replicas, 2)
            for place, host in enumerate(HOSTS[2:4]):
                fresh = at(host)
                await fresh.start()
                await fresh.wait_ready()
                names.addresses[place] = host
                await replicas[place].stop()
                replicas[place] = fresh
            await settled(client, replicas, 2)
    for replica in replicas:
        await replica.stop()


async def test_a_replica_that_comes_later_gets_its_share(at: Callable[..., Counted]) -> None:
    """Nobody is told of it. Connections are made anew now and then, and their name is looked up again."""
    async with at(HOSTS[0], connection_seconds=1.0) as one, at(HOSTS[1]) as other, naming(HOSTS[:1]) as names:
        name = f"dns://127.0.0.1:{names.port}/stepwell.example:{one.settings.port}"
        async with await Client.connect(name) as client:
            await call(client, 6)
            assert other.calls.count == 0
            names.addresses.append(HOSTS[1])
            await settled(client, [one, other], 2)


async def test_a_name_of_this_machine(database_url: str) -> None:
    async with serving(database_url, 1) as (replica,):
        port = replica.address.rsplit(":", 1)[1]

        def list_namespaces() -> int:
            with sync.Client.connect(f"dns:///localhost:{port}") as client:
                return len(list(client.list_namespaces()))

        assert await asyncio.to_thread(list_namespaces) == 1
