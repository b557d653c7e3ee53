"""Random and broken messages to every RPC: the service answers each with a reason of its own, and stays as it was.

`STEPWELL_FUZZ_SEED` draws the same messages again; each run says its seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]
from tests.hostile.answers import BAD_CODES, statuses
from tests.hostile.fuzzing import Fuzz
from tests.hostile.methods import SAMPLES, Method, methods
from tests.hostile.served import Served, rows_of, served
from tests.hostile.tenants import ROWS, ids_in
from tests.hostile.values import sampled
from tests.hostile.world import World

from stepwell.v1 import types_pb2, workers_pb2
from stepwell_server.model.api_keys import Role

METHODS = list(methods())
SERVICES = sorted({method.service for method in METHODS})
STREAMS = [method for method in METHODS if not method.is_unary]
AT_ONCE = 16
# Of the seconds that a call may take, where it may wait for something.
WAIT, PATIENCE = 0.3, 60.0
WAITING = {"wait", "update_name", "query_name"}
FAULTS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"}
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
HEALTH = "/grpc.health.v1.Health/Watch"
# What gRPC's own client says where it was writing when the stream was ended; the reason is lost.
CUT = ("INTERNAL", "Internal error from Core")
GROWTH, GROWTH_BYTES = 1.15, 24 * 2**20


def _role_for(method: Method) -> Role:
    """The least that may call it."""
    return ROWS[method.name].role or Role.READER


class Run:
    """A flood of such messages at one server. `tally` counts outcomes by service; `faults` tells of wrong ones."""

    def __init__(self, server: Served, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.tally: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []
        self.known: dict[str, list[Any]] = {"namespace": ["main", "main", "other"]}
        self._goods: dict[str, list[Any]] = {}
        self._admin = World(None, server.channel)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def prepare(self) -> None:
        """Good requests to spoil, of things that there are; and another tenant with things of its own."""
        self.known, self._goods = {"namespace": ["main", "main", "other"]}, {}
        admin = self._admin
        admin.metadata = await self.server.key(Role.ADMIN, None)
        with suppress(grpc.aio.AioRpcError):
            await admin.do("CreateNamespace", namespace="other")
            await furnish(admin)
        goods = [await admin.good(method) for method in METHODS if method.is_unary and method.service != "ClockService"]
        for good in goods:
            self._goods.setdefault(good.DESCRIPTOR.full_name, []).append(good)
        for good in [*goods, *await others(admin)]:
            for _, field, value in ids_in(good):
                self.known.setdefault(field.name, []).append(value)

    async def unary(self, service: str, count: int) -> None:
        called = [method for method in METHODS if method.service == service and method.is_unary]
        wanted = [self._one(called[place % len(called)]) for place in range(count if called else 0)]
        await asyncio.gather(*wanted)

    async def streams(self, count: int) -> None:
        wanted: list[Awaitable[None]] = []
        for place in range(count):
            wanted.append(self._worker())
            wanted.append(self._watch(STREAMS[place % len(STREAMS)]))
            wanted.append(self._tool(REFLECTION, reflection_pb2.ServerReflectionRequest.DESCRIPTOR))
            wanted.append(self._tool(HEALTH, None))
        await asyncio.gather(*wanted)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _fuzz(self, role: Role) -> Fuzz:
        # Who may do all must not name what is not to be touched.
        known = {**self.known, "namespace": ["main"]} if role is Role.ADMIN else self.known
        return Fuzz(self.chance, known)

    async def _one(self, method: Method) -> None:
        async with self._room:
            role = _role_for(method)
            fuzz = self._fuzz(role)
            request = fuzz.request(method.descriptor, self._goods.get(method.descriptor.full_name, ()))
            data = fuzz.bytes_of(request) if self.chance.random() < 0.4 else request.SerializeToString()
            metadata = await self.server.key(role, None if role is Role.ADMIN else "main")
            path = f"/stepwell.v1.{method.service}/{method.name}"
            called = self.server.channel.unary_unary(path, response_deserializer=answer_of(method).FromString)
            waits = bool(method.fields & WAITING)
            try:
                answer = await called(data, timeout=WAIT if waits else PATIENCE, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                code, said = error.code().name, error.details() or ""
            else:
                bad = next((BAD_CODES[each.code] for each in statuses(answer) if each.code in BAD_CODES), "OK")
                code, said = bad, ""
            self._count(method.service, code, f"{method.name}: {said} for {data[:200]!r}", waits=waits)

    async def _worker(self) -> None:
        """A worker's stream: a hello, often a good one, and a number of messages."""
        fuzz = self._fuzz(Role.WORKER)
        kind = workers_pb2.ConnectRequest.DESCRIPTOR
        hello = workers_pb2.ConnectRequest(hello=sampled(workers_pb2.Hello(), SAMPLES))  # type: ignore[arg-type]
        first = hello if self.chance.random() < 0.8 else fuzz.message(kind)
        said = [first.SerializeToString()]
        for _ in range(self.chance.randrange(6)):
            request = fuzz.message(kind)
            request.ClearField("drain")
            said.append(fuzz.bytes_of(request) if self.chance.random() < 0.3 else request.SerializeToString())
        await self._stream("/stepwell.v1.WorkerService/Connect", "WorkerService", said, Role.WORKER)

    async def _watch(self, method: Method) -> None:
        role = _role_for(method)
        fuzz = self._fuzz(role)
        request = fuzz.request(method.descriptor, ())
        data = fuzz.bytes_of(request) if self.chance.random() < 0.4 else request.SerializeToString()
        path = f"/stepwell.v1.{method.service}/{method.name}"
        await self._stream(path, method.service, [data], role)

    async def _tool(self, path: str, kind: Any) -> None:
        fuzz = self._fuzz(Role.READER)
        said = [
            fuzz.bytes_of(fuzz.message(kind)) if kind is not None else b"\x0a" + self.chance.randbytes(3)
            for _ in range(self.chance.randrange(1, 4))
        ]
        await self._stream(path, path.split("/")[1], said if kind is not None else said[:1], Role.READER)

    async def _stream(self, path: str, service: str, said: Iterable[bytes], role: Role) -> None:
        async with self._room:
            messages = list(said)

            async def words() -> AsyncIterator[bytes]:
                for message in messages:
                    yield message
                if self.chance.random() < 0.5:
                    await asyncio.sleep(WAIT)

            called = self.server.channel.stream_stream(path)
            call = called(words(), timeout=WAIT, metadata=await self.server.key(role, "main"))
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError as error:
                code, told = error.code().name, error.details() or ""
            except asyncio.CancelledError:
                # The client's library gives a call up so where it was writing when the stream was ended.
                code, told = "CANCELLED", ""
            else:
                code, told = "OK", ""
            self._count(service, code, f"{path}: {told} for {messages!r:.300}", waits=True)

    def _count(self, service: str, code: str, what: str, *, waits: bool) -> None:
        if (code, what.partition(": ")[2].partition(" for ")[0]) == CUT:
            code = "CANCELLED"
        self.tally[service, code] += 1
        fine = (code == "DEADLINE_EXCEEDED" and waits) or (code == "UNIMPLEMENTED" and service == "ClockService")
        if code in FAULTS and not fine:
            self.faults.append(f"{code} {what}")

    def told(self) -> str:
        """A line for each service: how many calls ended how."""
        lines = []
        for service in sorted({service for service, _ in self.tally}):
            codes = sorted((code, count) for (of, code), count in self.tally.items() if of == service)
            total = sum(count for _, count in codes)
            lines.append(f"{service:24}{total:>7}  " + "  ".join(f"{code} {count}" for code, count in codes))
        return "\n".join([*lines, f"{'all':24}{self.tally.total():>7}"])


def answer_of(method: Method) -> Any:
    pool: Any = descriptor_pool.Default()
    return GetMessageClass(pool.FindMessageTypeByName(f"stepwell.v1.{method.name}Response"))


async def furnish(admin: World) -> None:
    """The other tenant's things."""
    other = {"namespace": "other"}
    run = types_pb2.RUN_PHASE_RUNNING
    await admin.do("StartRun", type="t", task_queue="held", workflow_id="theirs", **other)
    await admin.do("CreateRun", type="t", initial_phase=run, workflow_id="their-driven", **other)
    await admin.do("StartJob", type="t", task_queue="held", unique_key="their-job", **other)
    await admin.do("CreateDefinition", definition={"code": "their-code"}, **other)
    spec = {"cron": "0 0 1 1 *"}
    await admin.do("CreateSchedule", schedule={"name": "theirs", "spec": spec, "run": {"type": "t"}}, **other)


async def others(admin: World) -> list[Any]:
    """Requests that name the other tenant's things."""
    runs = (await admin.do("ListRuns", namespace="other")).runs
    jobs = (await admin.do("ListJobs", namespace="other")).jobs
    named = [
        *(("GetRun", {"run_id": run.run_id}) for run in runs),
        *(("GetJob", {"job_id": job.job_id}) for job in jobs),
    ]
    named += [("GetRun", {"workflow_id": "theirs"}), ("GetSchedule", {"name": "theirs"})]
    named += [("GetDefinitionCode", {"code": "their-code"}), ("ListJobs", {"unique_key": "their-job"})]
    new = {method.name: type(method.new()) for method in METHODS}
    return [new[name](**fields) for name, fields in named]


async def flood(server: Served, count: int, streams: int, passes: int, say: Callable[[str], None]) -> None:
    """So many calls to each service, and so many streams of each kind, in each pass."""
    seed = int(os.environ.get("STEPWELL_FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    say(f"seed {seed}")
    run = Run(server, seed)
    await run.prepare()
    theirs = await rows_of(server.database_url, "other")
    assert theirs["runs"]
    taken: list[int] = []
    for _ in range(passes):
        await run.prepare()
        for service in SERVICES:
            await run.unary(service, count)
            await run.streams(streams // len(SERVICES) + 1)
        assert run.faults == []
        taken.append(server.memory())
    say(run.told())
    say(f"memory after each pass: {', '.join(f'{each / 2**20:.0f} MiB' for each in taken)}")
    await server.is_well()
    assert await rows_of(server.database_url, "other") == theirs
    half = passes // 2
    assert max(taken[half:]) <= max(taken[: half or 1]) * GROWTH + GROWTH_BYTES


async def test_random_messages_break_nothing(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A little of the test below."""
    async with served(tmp_path, database_url) as server:
        await flood(server, 24, 30, 1, print)


@pytest.mark.long
@pytest.mark.timeout(1_200)
async def test_a_flood_of_random_messages_breaks_nothing(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thousands to each service; no more memory in the end than halfway, and the other tenant's rows are untouched."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    async with served(tmp_path, database_url) as server:
        await flood(server, 550, 600, 4, say)
