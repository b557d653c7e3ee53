"""What a worker's key opens: its namespace's tasks, of its queues, in its own sessions; and nothing that is others'."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.api.keyed import Keyed, bearer, keyed, refused
from tests.api.test_known_keys import connecting, rest_of, welcome

from stepwell.v1 import workers_pb2
from stepwell_server.api.interceptors.errors import DETAILS_KEY
from stepwell_server.embedded import create_database
from stepwell_server.model.api_keys import Role, takes_queue

RUN = workers_pb2.TASK_KIND_RUN
HELLO: dict[str, Any] = {"worker_id": "w", "task_queues": ["mine"], "workflow_types": ["t"], "activity_types": ["t"]}
QUEUE_DENIED = ("PERMISSION_DENIED", "TASK_QUEUE_DENIED")
NO_SESSION = ("NOT_FOUND", "SESSION_NOT_FOUND")
EXPIRED = ("FAILED_PRECONDITION", "SESSION_EXPIRED")
LOST = ("FAILED_PRECONDITION", "LEASE_LOST")
OK = ("OK", "")


class World(NamedTuple):
    """A server; two workers' keys for all queues of `main`, and one for `mine` and those that begin with `my-`."""

    server: Keyed
    one: str
    two: str
    bound: str

    async def session(self, key: str, namespace: str = "", **hello: Any) -> str:
        opened = await self.server.call("OpenSession", key, hello={**HELLO, "namespace": namespace, **hello})
        return str(opened.welcome.session_id)

    async def claimed(self, key: str, session_id: str, task_queue: str = "mine", namespace: str = "") -> Any:
        """A run that is started for it, as a task that the session holds."""
        await self.server.call("StartRun", namespace=namespace, type="t", task_queue=task_queue)
        claimed = await self.server.call(
            "ClaimTasks", key, namespace=namespace, session_id=session_id, kind=RUN, wait={"seconds": 20}
        )
        (task,) = claimed.tasks
        return task


@pytest_asyncio.fixture(scope="module")
async def world(server_url: str, migrated_template: str) -> AsyncIterator[World]:
    database_url = await create_database(server_url, f"workers_{uuid.uuid4().hex[:12]}", migrated_template)
    async with keyed(database_url) as server:
        await server.call("CreateNamespace", namespace="other")
        bound = await server.make(Role.WORKER, task_queues=["mine", "my-*"])
        yield World(server, await server.make(Role.WORKER), await server.make(Role.WORKER), bound)


@pytest.mark.parametrize(
    ("patterns", "task_queue", "takes"),
    [
        (["a"], "a", True),
        (["a"], "ab", False),
        (["ab"], "a", False),
        (["a*"], "a", True),
        (["a*"], "ab", True),
        (["a*"], "ba", False),
        (["*"], "anything", True),
        (["a*b"], "ab", False),
        (["a*b"], "a*b", True),
        (["a", "b"], "b", True),
        (["A"], "a", False),
        ([], "a", False),
    ],
)
def test_a_queue_is_named_as_it_is_or_by_its_beginning(patterns: list[str], task_queue: str, takes: bool) -> None:
    assert takes_queue(patterns, task_queue) is takes


async def test_a_key_for_queues_takes_from_those_alone(world: World) -> None:
    """In each place where a worker names one, on the stream and by calls; one more that it may have does not help."""
    for queues, said in (
        (["mine"], OK),
        (["my-own"], OK),
        (["yours"], QUEUE_DENIED),
        (["mine", "yours"], QUEUE_DENIED),
    ):
        hello = {**HELLO, "task_queues": queues}
        assert await world.server.refused("OpenSession", world.bound, hello=hello) == said
        assert await world.server.refused("OpenSession", world.one, hello=hello) == OK
        stream = connecting(world.server, world.bound)
        assert await refused(welcome(stream, **hello)) == said
        stream.cancel()
    session_id = await world.session(world.bound)
    for queue, said in (("mine", OK), ("my-own", OK), ("", OK), ("yours", QUEUE_DENIED), ("minestrone", QUEUE_DENIED)):
        asked = world.server.refused("ClaimTasks", world.bound, session_id=session_id, task_queue=queue)
        assert await asked == said


@pytest.mark.parametrize("first", [True, False])
async def test_a_capacity_names_queues_that_the_key_is_for(world: World, first: bool) -> None:
    """With the hello, and later on."""
    capacity = workers_pb2.CapacityUpdate(
        capacities=[workers_pb2.Capacity(kind=RUN, task_queue="yours", max_outstanding=1)]
    )
    stream = connecting(world.server, world.bound)
    if first:
        assert await refused(welcome(stream, **HELLO, capacity=capacity)) == QUEUE_DENIED
        return
    assert (await welcome(stream, **HELLO)).session_id
    await stream.write(workers_pb2.ConnectRequest(capacity=capacity))

    assert await refused(rest_of(stream)) == QUEUE_DENIED


async def test_the_refusal_names_the_queue_and_the_field(world: World) -> None:
    session_id = await world.session(world.bound)
    with pytest.raises(Exception, match=r"queue yours, which field task_queue names") as raised:
        await world.server.call("ClaimTasks", world.bound, session_id=session_id, task_queue="yours")
    details = dict(raised.value.trailing_metadata())[DETAILS_KEY]  # type: ignore[attr-defined]
    assert b"task_queue" in details
    assert b"yours" in details


def by_session(world: World, key: str, session_id: str, ref: Any) -> dict[str, Any]:
    """Each call that names a session or a task, with another's."""
    report = workers_pb2.Report(correlation=1, ref=ref, release=workers_pb2.ReleaseTask())
    beat = workers_pb2.TaskHeartbeat(ref=ref)
    call = world.server.refused
    return {
        "ClaimTasks": call("ClaimTasks", key, session_id=session_id),
        "HeartbeatTasks": call("HeartbeatTasks", key, session_id=session_id, heartbeats=[beat]),
        "ListTaskSteps": call("ListTaskSteps", key, ref=ref),
        "ReportTasks": call("ReportTasks", key, session_id=session_id, reports=[report]),
    }


async def test_a_session_is_its_opener_s(world: World) -> None:
    """Whoever has learned its id, and what its tasks are called, can't use it: of whatever queues he is."""
    session_id = await world.session(world.one)
    task = await world.claimed(world.one, session_id)
    for key in (world.two, world.bound):
        for name, said in by_session(world, key, session_id, task.ref).items():
            assert await said == (LOST if name == "ListTaskSteps" else NO_SESSION), name
        assert not (await world.server.call("CloseSession", key, session_id=session_id)).closed
        stream = connecting(world.server, key)
        assert await refused(welcome(stream, **HELLO, session_id=session_id, held=[task.ref])) == EXPIRED
    for name, said in by_session(world, world.one, session_id, task.ref).items():
        assert await said == OK, name
    assert (await world.server.call("CloseSession", world.one, session_id=session_id)).closed


async def test_a_lease_is_of_its_session(world: World) -> None:
    """A session of one's own is no way to another's tasks."""
    task = await world.claimed(world.one, await world.session(world.one))
    own = await world.session(world.two)
    report = workers_pb2.Report(correlation=1, ref=task.ref, release=workers_pb2.ReleaseTask())
    (result,) = (await world.server.call("ReportTasks", world.two, session_id=own, reports=[report])).results
    assert result.status in (workers_pb2.ReportResult.STATUS_DUPLICATE, workers_pb2.ReportResult.STATUS_REFUSED)
    (beaten,) = (
        await world.server.call("HeartbeatTasks", world.two, session_id=own, heartbeats=[{"ref": task.ref}])
    ).results
    assert beaten.lost
    assert (await world.server.refused("ListTaskSteps", world.one, ref=task.ref)) == OK


async def test_the_stream_of_a_session_is_resumed_by_its_opener(world: World) -> None:
    stream = connecting(world.server, world.one)
    session_id = (await welcome(stream, **HELLO)).session_id
    thief = connecting(world.server, world.two)
    assert await refused(welcome(thief, **HELLO, session_id=session_id)) == EXPIRED
    again = connecting(world.server, world.one)
    assert (await welcome(again, **HELLO, session_id=session_id)).resumed
    stream.cancel()
    again.cancel()


async def test_an_admin_may_close_any_session(world: World) -> None:
    session_id = await world.session(world.one)
    assert (await world.server.call("CloseSession", session_id=session_id)).closed


async def test_a_key_for_queues_does_not_widen_a_session(world: World) -> None:
    """One that was opened where nobody was asked is for the queues that it says."""
    opened = await world.server.service.dispatcher.open(1, "main", _hello(["yours"]), streaming=False)
    assert await world.server.refused("ClaimTasks", world.bound, session_id=str(opened.session_id)) == NO_SESSION
    assert await world.server.refused("ClaimTasks", world.one, session_id=str(opened.session_id)) == OK


def _hello(task_queues: list[str]) -> Any:
    from stepwell_server.model.workers import Hello  # noqa: PLC0415 - the word is the protocol's everywhere else

    return Hello("w", tuple(task_queues), ("t",), ("t",))


async def test_another_namespace_is_out_of_reach(world: World) -> None:
    """By its name, by a session of it, and by what its tasks are called; nothing of it is told, not even a count."""
    theirs = await world.server.make(Role.WORKER, "other")
    session_id = await world.session(theirs, "other")
    task = await world.claimed(theirs, session_id, namespace="other")
    denied = ("PERMISSION_DENIED", "NAMESPACE_DENIED")
    for namespace, said in (("other", denied), ("", None)):
        calls: dict[str, dict[str, Any]] = {
            "ClaimTasks": {"session_id": session_id},
            "ReportTasks": {"session_id": session_id, "reports": [{"ref": task.ref}]},
            "HeartbeatTasks": {"session_id": session_id},
            "ListTaskSteps": {"ref": task.ref},
        }
        for name, fields in calls.items():
            expected = said or (LOST if name == "ListTaskSteps" else NO_SESSION)
            assert await world.server.refused(name, world.one, namespace=namespace, **fields) == expected, name
    assert not (await world.server.call("CloseSession", world.one, session_id=session_id)).closed
    with pytest.raises(Exception, match="the present token is -1"):
        await world.server.call("ListTaskSteps", world.one, ref={"task_id": task.ref.task_id, "token": 77})
    stream = connecting(world.server, world.one)
    assert await refused(welcome(stream, **HELLO, session_id=session_id)) == EXPIRED
    assert (await world.server.refused("ListTaskSteps", theirs, namespace="other", ref=task.ref)) == OK


async def test_queues_are_a_worker_s_and_are_shown(world: World) -> None:
    make = world.server.call
    queues = ["mine", "my-*"]
    made = await make("CreateApiKey", role=2, label="bound", task_queues=queues, request_id="r")
    assert list(made.api_key.task_queues) == queues
    assert list((await make("GetApiKey", key_id=made.api_key.key_id)).api_key.task_queues) == queues
    (listed,) = (await make("ListApiKeys", filter='label = "bound"')).api_keys
    assert list(listed.task_queues) == queues
    again = await make("CreateApiKey", role=2, label="bound", task_queues=queues, request_id="r")
    assert (again.api_key, again.created) == (made.api_key, False)
    hello = {**HELLO, "task_queues": ["yours"]}
    assert await world.server.refused("OpenSession", made.secret, hello=hello) == QUEUE_DENIED
    refusals: list[dict[str, Any]] = [
        {"role": 1, "task_queues": ["a"]},
        {"role": 3, "task_queues": ["a"]},
        {"role": 5, "task_queues": ["a"]},
        {"role": 2, "task_queues": [""]},
        {"role": 2, "task_queues": ["a\0"]},
        {"role": 2, "task_queues": ["a" * 256]},
        {"role": 2, "task_queues": [f"q{number}" for number in range(257)]},
    ]
    for wrong in refusals:
        assert await world.server.refused("CreateApiKey", **wrong) == ("INVALID_ARGUMENT", "INVALID_FIELD"), wrong


async def test_who_asks_is_told_who_he_is(world: World) -> None:
    """Each role may ask, and is told of himself alone."""
    found = await world.server.call("GetCaller", world.bound)
    assert (found.proof, found.name, found.role, found.namespace) == (1, world.bound[:12], 2, "main")
    assert list(found.task_queues) == ["mine", "my-*"]
    assert not found.HasField("expire_time")
    admin = await world.server.call("GetCaller")
    assert (admin.name, admin.role, admin.namespace) == (world.server.admin[:12], 4, "-")
    settings = world.server.service.settings
    async with keyed(settings.database_url or "", require_keys=False) as open_server:
        nobody = await open_server.call("GetCaller", key="")
        assert (nobody.proof, nobody.name, nobody.role, nobody.namespace) == (0, "", 4, "-")
    assert await refused(world.server.call("GetCaller", metadata=bearer("swk_" + "0" * 64))) == (
        "UNAUTHENTICATED",
        "API_KEY_UNKNOWN",
    )
