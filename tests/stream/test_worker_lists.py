"""Lists of live workers: filtered by what their hello says, sorted, page by page."""

from __future__ import annotations

from typing import Any

from tests.service import refusal
from tests.stream.kit import SECONDS, Replica, hello
from tests.stream.wire import Wire, wire

from stepwell.v1 import workers_pb2

SAID: dict[str, dict[str, Any]] = {
    "c": {"task_queues": ["mail", "q"], "build_id": "2"},
    "a": {"task_queues": ["q"], "build_id": "1", "identity": "host 1"},
    "b": {"task_queues": ["mail"], "activity_types": ["send", "it's"], "workflow_types": []},
}


async def opened(one: Replica, worker_id: str, **fields: Any) -> str:
    request = workers_pb2.OpenSessionRequest(hello=hello(worker_id, **fields))
    return str((await one.workers.OpenSession(request, timeout=SECONDS)).welcome.session_id)


async def listed(one: Replica, **fields: Any) -> list[str]:
    request = workers_pb2.ListWorkersRequest(**fields)
    names: list[str] = []
    while True:
        response = await one.workers.ListWorkers(request, timeout=SECONDS)
        names += [worker.worker_id for worker in response.workers]
        request.page_token = response.next_page_token
        if not request.page_token:
            return names


async def test_workers_are_filtered_and_sorted(one: Replica) -> None:
    sessions = {worker_id: await opened(one, worker_id, **fields) for worker_id, fields in SAID.items()}
    for size in (1, 2, 50):
        assert await listed(one, page_size=size) == ["c", "a", "b"]
        assert await listed(one, page_size=size, order_by="worker_id desc") == ["c", "b", "a"]
        assert await listed(one, page_size=size, order_by="build_id, worker_id") == ["b", "a", "c"]
    assert await listed(one, filter="task_queues:mail") == ["c", "b"]
    assert await listed(one, filter="NOT task_queues:mail") == ["a"]
    assert await listed(one, filter='activity_types:"it\'s"') == ["b"]
    assert await listed(one, filter="workflow_types:wf AND build_id = 2") == ["c"]
    assert await listed(one, filter='identity = "host*"') == ["a"]
    assert await listed(one, filter=f"session_id = {sessions['b']}") == ["b"]
    assert await listed(one, filter='register_time > "2020-01-01T00:00:00Z"') == ["c", "a", "b"]
    wrong = workers_pb2.ListWorkersRequest(filter="task_queues = mail")
    assert (await refusal(one.workers.ListWorkers(wrong, timeout=SECONDS)))[1] == "INVALID_FIELD"


async def test_a_session_that_goes_on_under_another_name_is_listed_by_that(one: Replica) -> None:
    async with wire(one, "before") as stream:
        again = await Wire(one, hello("after", session_id=stream.welcome.session_id, task_queues=["mail"])).open()
        assert await listed(one, filter="worker_id = after AND task_queues:mail") == ["after"]
        await again.cut()
