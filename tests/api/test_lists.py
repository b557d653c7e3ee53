"""Lists over the wire: filtered, sorted page by page, and counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import Store, at, create, json
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import history_pb2, namespaces_pb2, runs_pb2, types_pb2
from stepwell_server.api import runs_read

PENDING, RUNNING, TERMINATED = (
    types_pb2.RUN_PHASE_PENDING,
    types_pb2.RUN_PHASE_RUNNING,
    types_pb2.RUN_PHASE_TERMINATED,
)
HOSTILE = "x'); DROP TABLE runs; --"


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def runs(service: Service) -> list[Any]:
    """Runs of two types and three priorities, some named, every third ended, one paused."""
    ids = [
        await service.begin(type="ab"[place % 2], priority=place % 3, workflow_id=f"w{place}" if place < 4 else "")
        for place in range(9)
    ]
    for run_id in ids[::3]:
        await service.end(run_id)
    await service.runs.PauseRun(runs_pb2.PauseRunRequest(run_id=ids[1], reason="r"), timeout=TIMEOUT)
    await service.begin(type=HOSTILE, workflow_id="100%")
    return (await pages(service))[::-1]


async def pages(service: Service, page_size: int = 0, **fields: Any) -> list[Any]:
    """All pages of a list of runs."""
    listed: list[Any] = []
    token = ""
    while True:
        request = runs_pb2.ListRunsRequest(page_token=token, page_size=page_size, **fields)
        response = await service.runs.ListRuns(request, timeout=TIMEOUT)
        listed += response.runs
        token = response.next_page_token
        if not token:
            return listed


def ids(runs: list[Any]) -> list[str]:
    return [run.run_id for run in runs]


FITS: dict[str, Callable[[Any], bool]] = {
    "phase = TERMINATED": lambda run: run.phase == TERMINATED,
    "phase != TERMINATED": lambda run: run.phase != TERMINATED,
    "NOT phase = TERMINATED": lambda run: run.phase != TERMINATED,
    'type = "a"': lambda run: run.type == "a",
    'NOT (type = "a" OR type = "b")': lambda run: run.type == HOSTILE,
    'type = "a" AND priority >= 1 AND phase = PENDING': lambda run: (
        run.type == "a" and run.priority >= 1 and run.phase == PENDING
    ),
    'type = "x\'); DROP TABLE runs; --"': lambda run: run.type == HOSTILE,
    "workflow_id = w*": lambda run: run.workflow_id.startswith("w"),
    "workflow_id != w*": lambda run: not run.workflow_id.startswith("w"),
    'workflow_id = "100%"': lambda run: run.workflow_id == "100%",
    'workflow_id = "%*"': lambda run: False,
    "workflow_id:*": lambda run: bool(run.workflow_id),
    "end_time:*": lambda run: run.HasField("end_time"),
    'end_time > "2020-01-01T00:00:00Z"': lambda run: run.HasField("end_time"),
    'NOT end_time > "2020-01-01T00:00:00Z"': lambda run: not run.HasField("end_time"),
    'create_time > "2020-01-01T00:00:00Z" AND deadline:*': lambda run: False,
    "NOT deadline:*": lambda run: True,
    "paused = true": lambda run: run.HasField("pause"),
    "paused = false": lambda run: not run.HasField("pause"),
    "cancel_requested = true": lambda run: False,
    "driven = false AND managed = true": lambda run: True,
    "owner_id:*": lambda run: False,
    "event_count > 1": lambda run: run.event_count > 1,
    "priority < 100000": lambda run: True,
    "priority = 9223372036854775807": lambda run: False,
}


async def test_runs_are_filtered(service: Service, runs: list[Any]) -> None:
    """Open and ended alike; what is not set fits nothing but its opposite."""
    for text, fits in FITS.items():
        expected = [run.run_id for run in runs[::-1] if fits(run)]
        assert ids(await pages(service, filter=text)) == expected, text
        assert ids(await pages(service, filter=text, page_size=2)) == expected, text
    by_id = f"run_id = {runs[0].run_id} OR run_id = {runs[5].run_id}"
    assert ids(await pages(service, filter=by_id)) == [runs[5].run_id, runs[0].run_id]
    both = await pages(service, filter="priority = 1", type="b", phases=[PENDING])
    assert ids(both) == [run.run_id for run in runs[::-1] if (run.priority, run.type, run.phase) == (1, "b", PENDING)]


async def test_a_filter_ends_at_its_namespace(service: Service, runs: list[Any]) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="ns"))
    for text in ("NOT type = none", "type = a OR type != a", f"run_id = {runs[0].run_id}"):
        assert await pages(service, filter=text, namespace="ns") == []


ORDERS: dict[str, Callable[[Any], Any]] = {
    "type": lambda run: run.type,
    "priority, type": lambda run: (run.priority, run.type),
    "phase, priority": lambda run: (run.phase, run.priority),
    "create_time": lambda run: run.create_time.ToNanoseconds(),
    "update_time": lambda run: run.update_time.ToNanoseconds(),
    "end_time": lambda run: run.end_time.ToNanoseconds() if run.HasField("end_time") else 1e30,
    "event_count, workflow_id": lambda run: (run.event_count, run.workflow_id),
}


@pytest.mark.parametrize("page_size", [1, 3])
async def test_runs_are_sorted_page_by_page(service: Service, runs: list[Any], page_size: int) -> None:
    """Each run once, in the order asked for; equals stay newest first."""
    newest_first = runs[::-1]
    for text, key in ORDERS.items():
        # Python's sort is stable, so that the newest of equals stays in front.
        expected = ids(sorted(newest_first, key=key))
        assert ids(await pages(service, order_by=text, page_size=page_size)) == expected, text
    descending = sorted(newest_first, key=lambda run: (-run.priority, run.type))
    assert ids(await pages(service, order_by="priority desc, type", page_size=page_size)) == ids(descending)
    last = await pages(service, order_by="end_time desc", filter="end_time:*", page_size=page_size)
    assert ids(last) == [runs[6].run_id, runs[3].run_id, runs[0].run_id]


async def test_a_skip_counts_in_the_order_asked_for(service: Service, runs: list[Any]) -> None:
    whole = ids(await pages(service, order_by="type, priority"))
    assert ids(await pages(service, order_by="type, priority", skip=4, page_size=2)) == whole[4:]


async def test_a_token_belongs_to_its_filter_and_order(service: Service, runs: list[Any]) -> None:
    asked: dict[str, Any] = {"filter": "priority > 0", "order_by": "type"}
    first = await service.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=1, **asked), timeout=TIMEOUT)
    for change in ({"filter": "priority > 1"}, {"filter": ""}, {"order_by": "type desc"}, {"order_by": ""}):
        request = runs_pb2.ListRunsRequest(page_token=first.next_page_token, **{**asked, **change})
        assert await refusal(service.runs.ListRuns(request, timeout=TIMEOUT)) == (
            "INVALID_ARGUMENT",
            "PAGE_TOKEN_INVALID",
        )


async def test_all_that_fits_is_counted_when_asked_for(
    service: Service, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what other pages show, up to a bound that is told."""

    async def counted(**fields: Any) -> tuple[int, bool, int]:
        request = runs_pb2.ListRunsRequest(page_size=2, count_total=True, **fields)
        response = await service.runs.ListRuns(request, timeout=TIMEOUT)
        return response.total_size, response.more_than_total_size, len(response.runs)

    assert await counted() == (10, False, 2)
    assert await counted(filter="type = a AND phase = PENDING") == (3, False, 2)
    assert await counted(filter="type = none") == (0, False, 0)
    assert await counted(phases=[TERMINATED], skip=2) == (3, False, 1)
    assert await counted(parent_run_id="01890a5d-ac96-774b-bcce-b302099a8057") == (0, False, 0)
    silent = await service.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=2), timeout=TIMEOUT)
    assert (silent.total_size, silent.more_than_total_size) == (0, False)
    monkeypatch.setattr(runs_read, "MOST_COUNTED", 9)
    assert await counted() == (9, True, 2)
    monkeypatch.setattr(runs_read, "MOST_COUNTED", 10)
    assert await counted() == (10, False, 2)


@pytest.mark.parametrize("text", ["phase = BROKEN", "type = 'a", "colour = red", "type = \0", "a" * 5_000])
async def test_a_wrong_filter_is_refused_by_every_list(shared: Service, text: str) -> None:
    run_id = await shared.begin()
    lists = (
        shared.runs.ListRuns(runs_pb2.ListRunsRequest(filter=text), timeout=TIMEOUT),
        shared.runs.ListRunSteps(runs_pb2.ListRunStepsRequest(run_id=run_id, filter=text), timeout=TIMEOUT),
        shared.history.ListEvents(history_pb2.ListEventsRequest(run_id=run_id, filter=text), timeout=TIMEOUT),
        shared.namespace_calls.ListNamespaces(namespaces_pb2.ListNamespacesRequest(filter=text), timeout=TIMEOUT),
        Store(shared, "run").call("ListDrivenRuns", filter=text),
        Store(shared, "event").call("ReadEvents", run_id=run_id, filter=text),
    )
    for call in lists:
        assert await refusal(call) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_driven_runs_are_filtered_sorted_and_counted(service: Service) -> None:
    store = Store(service, "run")
    made = [await create(service, workflow_id=f"w{place}", type="ab"[place % 2]) for place in range(5)]
    await service.begin(type="a")
    await store.call("ClaimRun", run_id=made[2], owner_id="engine")
    listed = await store.pages("ListDrivenRuns", "runs", filter="type = a", order_by="workflow_id", page_size=2)
    assert ids(listed) == [made[0], made[2], made[4]]
    held = await store.call("ListDrivenRuns", filter='owner_id = "engine" AND phase = RUNNING', count_total=True)
    assert (ids(held.runs), held.total_size, held.more_than_total_size) == ([made[2]], 1, False)


async def test_steps_are_filtered_and_sorted(service: Service) -> None:
    """Open and ended in one order: open ones stand last where only what has ended has a value."""
    run_id, store = await create(service), Store(service, "step")
    begun = [(await store.call("BeginStep", run_id=run_id, step_name=name)).step for name in ("c", "a", "d", "b")]
    for step in (begun[2], begun[0]):
        await store.call("CompleteStep", step_number=step.number, result=json("1"))
    await Store(service, "timer").call("CreateTimer", run_id=run_id, seq=7, fire_time=at(0))

    async def names(page_size: int = 50, **fields: Any) -> list[str]:
        request = runs_pb2.ListRunStepsRequest(run_id=run_id, page_size=page_size, **fields)
        listed: list[str] = []
        while True:
            response = await service.runs.ListRunSteps(request, timeout=TIMEOUT)
            listed += [step.name for step in response.steps]
            request.page_token = response.next_page_token
            if not request.page_token:
                return listed

    for size in (1, 2, 50):
        assert await names(size) == ["c", "a", "d", "b", "timer"]
        assert await names(size, order_by="ordinal desc") == ["timer", "b", "d", "a", "c"]
        assert await names(size, order_by="name") == ["a", "b", "c", "d", "timer"]
        assert await names(size, order_by="completion") == ["d", "c", "a", "b", "timer"]
        assert await names(size, order_by="completion desc, ordinal desc") == ["timer", "b", "a", "c", "d"]
        assert await names(size, order_by="end_time, name desc") == ["d", "c", "timer", "b", "a"]
    assert await names(filter="state = COMPLETED") == ["c", "d"]
    assert await names(filter="NOT state = COMPLETED AND kind = LOCAL") == ["a", "b"]
    assert await names(filter="kind = STEP_KIND_TIMER AND seq = 7") == ["timer"]
    assert await names(filter="completion > 0", order_by="completion") == ["d", "c"]
    assert await names(filter="end_time:* OR NOT start_time:*") == ["c", "d", "timer"]


async def test_events_are_filtered(service: Service) -> None:
    """By the type that is shown, the service's or a caller's own."""
    run_id, store = await create(service), Store(service, "event")
    for seq, label in enumerate(("Paid", "Sent", "RunStarted"), 1):
        await store.call("AppendEvent", run_id=run_id, type=label, caller_seq=seq)

    async def numbers(text: str, **fields: Any) -> list[int]:
        request = history_pb2.ListEventsRequest(run_id=run_id, filter=text, **fields)
        listed = [event.number for event in (await service.history.ListEvents(request, timeout=TIMEOUT)).events]
        read = await store.pages("ReadEvents", "events", run_id=run_id, filter=text, page_size=1, **fields)
        assert [event.number for event in read] == listed
        return listed

    assert await numbers("") == [1, 2, 3, 4]
    assert await numbers("type = RunStarted") == [1, 4]
    assert await numbers("type = RunStarted AND origin = ENGINE") == [1]
    assert await numbers("type = S* OR caller_seq = 1", descending=True) == [3, 2]
    assert await numbers("NOT type = RunStarted AND number > 2") == [3]
    assert await numbers('time < "2020-01-01T00:00:00Z"') == []


async def test_namespaces_are_filtered_and_sorted(service: Service) -> None:
    for name in ("team-b", "team-a", "other"):
        await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace=name))

    async def names(**fields: Any) -> list[str]:
        request = namespaces_pb2.ListNamespacesRequest(page_size=1, **fields)
        listed: list[str] = []
        while True:
            response = await service.namespace_calls.ListNamespaces(request, timeout=TIMEOUT)
            listed += [each.name for each in response.namespaces]
            request.page_token = response.next_page_token
            if not request.page_token:
                return listed

    assert await names(filter='name = "team-*"') == ["team-a", "team-b"]
    assert await names(order_by="create_time desc", filter="NOT name = main") == ["other", "team-a", "team-b"]
