"""The primary killed under load, and its standby promoted: two replicas find it by themselves and go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.chaos import worker
from tests.chaos.commits import CommitHolder, outcome
from tests.chaos.invariants import check
from tests.chaos.kit import Proxy, Stage, connected, free_port, results, stage, start_errands, until
from tests.chaos.standby import Server, looking, make_synchronous, promote, server, standby_of

from stepwell import Client, RunHandle
from stepwell_server.store import migrations

pytestmark = pytest.mark.timeout(300)
COUNT, ACTIVITIES = 6, 12
EXPECTED = worker.expected(ACTIVITIES)


class Pair(NamedTuple):
    """A primary and its standby, and who works on them. `stream` stands between the two."""

    primary: Server
    standby: Server
    stream: Proxy
    scene: Stage

    def url(self, port: int | None = None) -> str:
        """Both servers' address; the primary's port may be another's that leads to it."""
        hosts = f"127.0.0.1:{port or self.primary.port},{self.standby.host}"
        return f"postgresql://{self.primary.login}@{hosts}/chaos?target_session_attrs=read-write"


@asynccontextmanager
async def pair(tmp_path: Path, data_dir: Path) -> AsyncIterator[Pair]:
    async with (
        server(data_dir / "primary") as primary,
        Proxy("127.0.0.1", primary.port) as stream,
        standby_of(primary, data_dir / "standby", stream.port) as standby,
        stage(tmp_path, standby.url("chaos")) as scene,
    ):
        await migrations.migrate(primary.url("chaos"))
        yield Pair(primary, standby, stream, scene)


class Load:
    """Runs are started without a pause; `worst` is the longest that a caller waited for the word that one was."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._is_over = False
        self.handles: list[RunHandle[int]] = []
        self.worst = 0.0

    async def run(self) -> None:
        """Goes on until `end`."""
        await asyncio.gather(*(self._start_through(client) for client in self._clients))

    def end(self) -> None:
        self._is_over = True

    async def _start_through(self, client: Client) -> None:
        while not self._is_over:
            began = time.monotonic()
            self.handles.append(await client.start_run(worker.errand, ACTIVITIES, task_queue=worker.QUEUE))
            self.worst = max(self.worst, time.monotonic() - began)
            await asyncio.sleep(0.1)


async def judged(scene: Stage, handles: list[Any], said: str) -> Counter[str]:
    """What must hold, and the figures."""
    assert await results(handles, 90) == [EXPECTED] * len(handles)
    found = await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])
    repeats = len(scene.done()) - len({(line["run"], line["step"], line["kind"]) for line in scene.done()})
    print(f"{said}: {len(handles)} runs, {sum(found.values())} events, {repeats} repeats, {dict(found)}")
    return found


def complaints(scene: Stage) -> list[str]:
    """What the replicas' logs call an error."""
    logs = scene.folder.glob("server-*.log")
    return [line for log in logs for line in log.read_text().splitlines() if '"level":"error"' in line.replace(" ", "")]


@pytest.mark.parametrize("reply", [False, True], ids=["before the commit", "before its reply"])
@pytest.mark.long
async def test_a_promotion_with_a_commit_in_flight(tmp_path: Path, data_dir: Path, reply: bool) -> None:
    """What was answered is there, and what was not is settled on the new primary. The old one is not written to."""
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with AsyncExitStack() as stack:
        two = await stack.enter_async_context(pair(tmp_path, data_dir))
        await make_synchronous(two.primary)
        before = await stack.enter_async_context(Proxy("127.0.0.1", two.primary.port))
        await two.scene.server(ports[0], two.url(before.port), IDLE_TRANSACTION_SECONDS="60")
        await two.scene.server(ports[1], two.url())
        clients = await stack.enter_async_context(connected(*addresses))
        for address in addresses:
            await two.scene.worker(address)
        load = Load(clients)
        loading = asyncio.create_task(load.run())
        await two.scene.more(50)

        look = await stack.enter_async_context(looking(two.primary.url("chaos")))
        holder = CommitHolder(before, look, reply=reply)
        # What has an attribute is more than one statement, and so has a COMMIT.
        start = clients[0].start_run(worker.errand, ACTIVITIES, task_queue=worker.QUEUE, search_attributes={"held": 1})
        unheard = asyncio.create_task(start)
        xid = await holder.held()
        assert await outcome(look, xid) == ("committed" if reply else "in progress")
        await two.primary.kill()
        holder.lose()
        died = time.monotonic()
        await promote(two.standby)
        promoted = time.monotonic() - died
        await two.scene.more(50)
        resumed = time.monotonic() - died

        new = await stack.enter_async_context(looking(two.standby.url("chaos")))
        if reply:
            assert await outcome(new, xid) == "committed"
        handles = [await unheard]
        await two.scene.more(50)
        written = await stay_away_from_the_old(two)
        await two.scene.more(50)
        load.end()
        await loading
        print(f"promoted after {promoted:.1f} s, worked after {resumed:.1f} s, slowest start {load.worst:.1f} s")
        await judged(two.scene, [*handles, *load.handles], "synchronous")
        async with looking(two.primary.url("chaos")) as old:
            assert await old.fetchval(BATCHES) == written
        assert complaints(two.scene) == []


BATCHES = "SELECT count(*) FROM stepwell.batches"


async def stay_away_from_the_old(two: Pair) -> int:
    """The old primary is back and takes writes, while the new one is away for a moment. Answers its batches."""
    await two.primary.start(synchronous_standby_names="")
    async with looking(two.primary.url("chaos")) as old:
        written: int = await old.fetchval(BATCHES)
    await two.standby.kill()

    def replicas_know() -> bool:
        logs = [log.read_text() for log in two.scene.folder.glob("server-*.log")]
        return all("which was replaced by" in log for log in logs)

    await until(replicas_know)
    await two.standby.start()
    return written


@pytest.mark.long
async def test_a_promotion_that_loses_commits(tmp_path: Path, data_dir: Path) -> None:
    """A standby that lagged lacks what was acknowledged: that is lost, and all else is whole and goes on."""
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with AsyncExitStack() as stack:
        two = await stack.enter_async_context(pair(tmp_path, data_dir))
        for port in ports:
            await two.scene.server(port, two.url())
        clients = await stack.enter_async_context(connected(*addresses))
        for address in addresses:
            await two.scene.worker(address)
        handles = [handle for client in clients for handle in await start_errands(client, COUNT, ACTIVITIES)]
        await two.scene.more(20)
        two.stream.keeps_answers = True
        lost = [handle for client in clients for handle in await start_errands(client, COUNT, ACTIVITIES)]
        await two.scene.more(20)
        await two.primary.kill()
        two.stream.cut()
        await promote(two.standby)

        async with looking(two.standby.url("chaos")) as new:
            known = {row[0] for row in await new.fetch("SELECT run_id::text FROM stepwell.run_ids")}
        assert not known & {handle.run_id for handle in lost}
        there = [handle for handle in handles if handle.run_id in known]
        assert there
        later = [handle for client in clients for handle in await start_errands(client, COUNT, ACTIVITIES)]
        assert await results([*there, *later], 90) == [EXPECTED] * len(there + later)
        async with looking(two.standby.url("chaos")) as new:
            await whole(new)
        print(f"asynchronous: {len(lost)} of {len(handles + lost + later)} runs lost")
        assert all("commits are lost" in line for line in complaints(two.scene))


async def whole(connection: Any) -> None:
    """Histories are without gaps, and no step or run is there twice."""
    gaps = await connection.fetchval(
        """
        SELECT count(*) FROM (
            SELECT run_key FROM stepwell.events GROUP BY run_key HAVING max(number) <> count(*) OR min(number) <> 1
        ) AS g
        """
    )
    twice = await connection.fetchval(
        "SELECT count(*) FROM (SELECT run_id FROM stepwell.run_ids GROUP BY run_id HAVING count(*) > 1) AS t"
    )
    assert (gaps, twice) == (0, 0)
