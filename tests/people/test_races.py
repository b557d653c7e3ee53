"""Many people at once, over several connections and two replicas: one winner, and nothing is lost."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest_asyncio
from google.rpc import status_pb2
from tests.api.stores import Store
from tests.people.kit import CANCELLED, CLAIMED, COMPLETED, People, create, history, json
from tests.service import Service, reason_of, serving

Replicas = tuple[Service, Service]


class Connection:
    """A connection of one's own."""

    def __init__(self, service: Service) -> None:
        address, options = f"127.0.0.1:{service.server.port}", [("grpc.use_local_subchannel_pool", 1)]
        self.channel: grpc.aio.Channel | None = grpc.aio.insecure_channel(address, options=options)


@pytest_asyncio.fixture
async def replicas(database_url: str) -> AsyncIterator[Replicas]:
    async with serving(database_url, committers=2) as one, serving(database_url, committers=2) as other:
        yield one, other


def crowd(replicas: Replicas, count: int) -> list[People]:
    """So many people, each over a connection of their own, at both replicas in turn."""
    return [People(Connection(replicas[number % 2])) for number in range(count)]


async def outcome(call: Callable[[], Awaitable[Any]]) -> str:
    """OK, or the reason of the refusal. Who finds the run busy asks again."""
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            reason = reason_of(status_pb2.Status.FromString(trailers["grpc-status-details-bin"]))
            if reason != "RUN_BUSY":
                return reason
        else:
            return "OK"


async def test_of_64_claims_one_wins(replicas: Replicas) -> None:
    one, _ = replicas
    run_id = await create(one)
    task = await People(one).made(run_id)

    async def claim(person: People, number: int) -> str:
        return await outcome(lambda: person.call("ClaimUserTask", task_id=task.task_id, user_id=f"u{number}"))

    came = await asyncio.gather(*(claim(person, number) for number, person in enumerate(crowd(replicas, 64))))
    assert Counter(came) == {"OK": 1, "USER_TASK_STATE_CONFLICT": 63}
    claimed = await People(one).get(task.task_id)
    assert (claimed.status, claimed.claimed_by, claimed.version) == (CLAIMED, f"u{came.index('OK')}", 2)
    changes = [event for event in await history(one, run_id) if event.type == "UserTaskChanged"]
    assert [dict(event.attributes)["by"] for event in changes] == [claimed.claimed_by]


async def test_completion_against_the_end_of_the_run(replicas: Replicas) -> None:
    """Each time one of them comes first: either the task is done, with its output, or it is cancelled with its run."""
    one, other = replicas
    done = 0
    for _ in range(20):
        run_id = await create(one)
        task = await People(one).claimed(run_id, signal_name="s")
        request = {"task_id": task.task_id, "user_id": "ann", "output": json("1")}
        completing = outcome(lambda request=request: People(one).call("CompleteUserTask", **request))  # type: ignore[misc]
        ending = outcome(lambda run_id=run_id: Store(other, "run").call("CancelDrivenRun", run_id=run_id))  # type: ignore[misc]
        came, ended = await asyncio.gather(completing, ending)
        assert ended == "OK"
        after = await People(other).get(task.task_id)
        types = [event.type for event in await history(one, run_id)]
        if came == "OK":
            assert (after.status, after.output.json) == (COMPLETED, "1")
            assert types.index("UserTaskCompleted") < types.index("SignalReceived") < types.index("RunCancelled")
            assert "UserTaskCancelled" not in types
            done += 1
        else:
            assert (came, after.status) == ("USER_TASK_STATE_CONFLICT", CANCELLED)
            assert "UserTaskCompleted" not in types
    assert 0 <= done <= 20


async def test_one_of_many_creates_unless_active(replicas: Replicas) -> None:
    one, _ = replicas
    run_id = await create(one)

    async def make(person: People) -> tuple[bool, str]:
        made: list[Any] = []
        wanted = {"run_id": run_id, "step_name": "s", "unless_active": True}

        async def ask() -> None:
            made.append(await person.call("CreateUserTask", **wanted))

        assert await outcome(ask) == "OK"
        return made[0].created, made[0].user_task.task_id

    came = await asyncio.gather(*(make(person) for person in crowd(replicas, 16)))
    assert sum(created for created, _ in came) == 1
    assert len({task_id for _, task_id in came}) == 1


async def test_an_id_is_given_to_one_of_many_runs(replicas: Replicas) -> None:
    """Runs that no lock is common to: the id's own uniqueness decides."""
    one, _ = replicas
    for _ in range(5):
        runs = [await create(one) for _ in range(8)]
        task_id = str(uuid.uuid4())

        async def make(person: People, run_id: str, task_id: str = task_id) -> str:
            wanted = {"run_id": run_id, "step_name": "s", "task_id": task_id}
            return await outcome(lambda: person.call("CreateUserTask", **wanted))

        pairs = zip(crowd(replicas, 8), runs, strict=True)
        came = await asyncio.gather(*(make(person, run_id) for person, run_id in pairs))
        assert Counter(came) == {"OK": 1, "USER_TASK_EXISTS": 7}
        assert (await People(one).get(task_id)).run_id == runs[came.index("OK")]


async def test_an_update_that_was_overtaken_changes_nothing(replicas: Replicas) -> None:
    one, _ = replicas
    task = await People(one).made(await create(one))

    async def update(person: People, number: int) -> str:
        mask = {"paths": ["title"]}
        wanted = {"task_id": task.task_id, "spec": {"title": f"t{number}"}, "update_mask": mask}
        return await outcome(lambda: person.call("UpdateUserTask", **wanted, expected_version=1))

    came = await asyncio.gather(*(update(person, number) for number, person in enumerate(crowd(replicas, 16))))
    assert Counter(came) == {"OK": 1, "USER_TASK_VERSION_CONFLICT": 15}
    assert (await People(one).get(task.task_id)).spec.title == f"t{came.index('OK')}"
