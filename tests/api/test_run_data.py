"""Data of driven runs: several payloads changed at once under a version, read by name, and kept when the run ends."""

from __future__ import annotations

import asyncio
import json as plain
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import COMPLETED, FAILED, PENDING, RUNNING, SUSPENDED, Store, claimed, create, json
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import retention_pb2

CHANGED = ("FAILED_PRECONDITION", "RUN_DATA_CHANGED")
INVALID = ("INVALID_ARGUMENT", "INVALID_FIELD")
LARGE = json('"' + "x" * 1_900_000 + '"')


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "run")


def put(**data: str) -> list[dict[str, Any]]:
    return [{"name": name, "set": json(text)} for name, text in data.items()]


def merge(name: str, text: str) -> list[dict[str, Any]]:
    return [{"name": name, "merge": json(text)}]


async def data(store: Store, run_id: str, *names: str, **fields: Any) -> dict[str, str]:
    answer = await store.call("GetRunData", run_id=run_id, names=names, **fields)
    return {name: payload.json for name, payload in sorted(answer.data.items())}


async def change(store: Store, run_id: str, changes: list[dict[str, Any]], **fields: Any) -> int:
    return int((await store.call("SetRunData", run_id=run_id, changes=changes, **fields)).data_version)


async def test_several_are_changed_at_once(service: Service, store: Store) -> None:
    run_id = await create(service)
    assert await change(store, run_id, put(tokens="[1]", output='{"a":1}')) == 1
    changes = [*put(tokens="[2]"), *merge("output", '{"b":{"c":null},"a":null}'), {"name": "gone", "remove": True}]
    assert await change(store, run_id, changes) == 2
    assert await data(store, run_id) == {"output": '{"b":{"c":null}}', "tokens": "[2]"}
    assert await change(store, run_id, [{"name": "tokens", "remove": True}, *merge("new", '{"x": 1.50}')]) == 3
    assert await data(store, run_id) == {"new": '{"x":1.50}', "output": '{"b":{"c":null}}'}
    assert await data(store, run_id, "new", "tokens") == {"new": '{"x":1.50}'}


async def test_of_those_who_saw_one_version_one_wins(service: Service, store: Store) -> None:
    run_id = await create(service)
    answers = await asyncio.gather(
        *(change(store, run_id, put(**{f"n{n}": str(n)}), expected_version=0) for n in range(12)),
        return_exceptions=True,
    )
    assert [answer for answer in answers if not isinstance(answer, BaseException)] == [1]
    assert len(await data(store, run_id)) == 1
    assert await refusal(change(store, run_id, put(a="1"), expected_version=0)) == CHANGED
    assert await change(store, run_id, put(a="1"), expected_version=1) == 2


async def test_merges_at_the_same_time_lose_nothing(service: Service, store: Store) -> None:
    run_id = await create(service)
    await asyncio.gather(*(change(store, run_id, merge("output", f'{{"k{n}":{n}}}')) for n in range(20)))
    assert plain.loads((await data(store, run_id))["output"]) == {f"k{n}": n for n in range(20)}


async def test_a_holder_s_token_counts(service: Service, store: Store) -> None:
    run_id = await create(service)
    claim = await claimed(store, run_id, "a")
    assert await refusal(change(store, run_id, put(a="1"))) == ("FAILED_PRECONDITION", "LEASE_LOST")
    assert await change(store, run_id, put(a="1"), token=claim.token) == 1
    stale = store.call("UpdateDrivenRun", run_id=run_id, phase=SUSPENDED, token=claim.token + 1)
    assert await refusal(stale) == ("FAILED_PRECONDITION", "LEASE_LOST")


async def test_it_stays_as_it_is_when_the_run_has_ended(service: Service, store: Store) -> None:
    run_id = await create(service, data={"a": json("1")})
    await store.call("MarkRunCompleted", run_id=run_id)
    assert await refusal(change(store, run_id, put(a="2"))) == ("FAILED_PRECONDITION", "RUN_TERMINAL")
    assert await data(store, run_id) == {"a": "1"}
    assert (await service.get(run_id)).data_version == 1
    await service.retention.DeleteRun(retention_pb2.DeleteRunRequest(run_id=run_id), timeout=TIMEOUT)
    assert await refusal(data(store, run_id)) == ("NOT_FOUND", "RUN_NOT_FOUND")


async def test_only_driven_runs_have_it(service: Service, store: Store) -> None:
    run_id = await service.begin()
    assert await refusal(change(store, run_id, put(a="1"))) == ("FAILED_PRECONDITION", "RUN_NOT_DRIVEN")
    assert await data(store, run_id) == {}


async def test_a_refused_change_leaves_nothing(service: Service, store: Store) -> None:
    run_id = await create(service, data={"a": json("1"), "b": json("[]")})
    assert await refusal(change(store, run_id, [*put(a="2"), *merge("b", '{"c":1}')])) == INVALID
    assert await data(store, run_id) == {"a": "1", "b": "[]"}
    again = store.call("UpdateDrivenRun", run_id=run_id, phase=PENDING, changes=put(a="3"))
    assert await refusal(again) == ("FAILED_PRECONDITION", "RUN_PHASE_CONFLICT")
    assert await data(store, run_id) == {"a": "1", "b": "[]"}
    assert (await service.get(run_id)).data_version == 1


async def test_there_is_a_limit_to_all_of_it(service: Service, store: Store) -> None:
    """Of names and of bytes; what is taken away makes room."""
    run_id = await create(service)
    for number in range(8):
        await change(store, run_id, [{"name": f"n{number}", "set": LARGE}])
    full = ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert await refusal(change(store, run_id, [{"name": "more", "set": LARGE}])) == full
    await change(store, run_id, [{"name": "n0", "remove": True}])
    await change(store, run_id, [{"name": "more", "set": LARGE}])
    many = await create(service, data={f"n{number}": json("1") for number in range(1_000)})
    assert await refusal(change(store, many, put(more="1"))) == full
    assert await change(store, many, [*put(more="1"), {"name": "n5", "remove": True}]) == 2


async def test_pages_end_where_a_message_would_be_too_large(service: Service, store: Store) -> None:
    run_id = await create(service, data={"small": json("1")})
    for number in range(3):
        await change(store, run_id, [{"name": f"n{number}", "set": LARGE}])
    first = await store.call("GetRunData", run_id=run_id)
    rest = await store.call("GetRunData", run_id=run_id, page_token=first.next_page_token)
    assert [sorted(each.data) for each in (first, rest)] == [["n0", "n1"], ["n2", "small"]]
    assert rest.next_page_token == ""
    assert [sorted(each) for each in [await data(store, run_id, page_size=2)]] == [["n0", "n1"]]


async def test_a_run_is_read_and_listed_with_it(service: Service, store: Store) -> None:
    first = await create(service, data={"tokens": json("[1]"), "output": json("{}")}, correlation_id="c")
    other = await create(service, input=json("7"), correlation_id="c")
    await create(service)
    run = (await store.call("ReadRun", run_id=first, data_names=["tokens", "none"])).run
    assert ({name: each.json for name, each in run.data.items()}, run.data_version) == ({"tokens": "[1]"}, 1)
    assert not (await store.call("ReadRun", run_id=first)).run.data
    listed = (await store.call("ListDrivenRuns", correlation_id="c", payloads=True, data_names=["*"])).runs
    assert [(each.run_id, each.input.json, sorted(each.data)) for each in listed] == [
        (other, "7", []),
        (first, "", ["output", "tokens"]),
    ]


async def test_what_is_too_large_is_left_out_and_said_so(service: Service, store: Store) -> None:
    runs = [await create(service) for _ in range(2)]
    for run_id in runs:
        for number in range(3):
            await change(store, run_id, [{"name": f"n{number}", "set": LARGE}])
    run = (await store.call("ReadRun", run_id=runs[0], data_names=["*"])).run
    assert (run.data_omitted, len(run.data)) == (True, 0)
    assert not (await store.call("ReadRun", run_id=runs[0], data_names=["n1"])).run.data_omitted
    page = await store.call("ListDrivenRuns", payloads=True, data_names=["*"])
    assert [(each.run_id, each.data_omitted) for each in page.runs] == [(runs[1], True)]
    rest = await store.call("ListDrivenRuns", payloads=True, data_names=["*"], page_token=page.next_page_token)
    assert [(each.run_id, each.data_omitted) for each in rest.runs] == [(runs[0], True)]


async def test_phase_pause_and_data_change_together(service: Service, store: Store) -> None:
    run_id = await create(service, initial_phase=PENDING)

    async def update(**fields: Any) -> tuple[int, str, int]:
        answer = await store.call("UpdateDrivenRun", run_id=run_id, **fields)
        run = await service.get(run_id)
        assert (answer.phase, answer.data_version) == (run.phase, run.data_version)
        return run.phase, run.pause.reason, run.data_version

    assert await update(phase=RUNNING, changes=put(a="1")) == (RUNNING, "", 1)
    assert await update(phase=SUSPENDED, pause_reason="user") == (SUSPENDED, "user", 2)
    assert await update(pause_reason="other", changes=put(a="2")) == (SUSPENDED, "other", 3)
    assert await update(phase=SUSPENDED) == (SUSPENDED, "other", 4)
    assert await update(phase=RUNNING, pause_reason="") == (RUNNING, "", 5)
    stale = store.call("UpdateDrivenRun", run_id=run_id, phase=COMPLETED, expected_version=4)
    assert await refusal(stale) == CHANGED
    failure = {"message": "boom", "type": "timeout"}
    assert await update(phase=FAILED, failure=failure, changes=put(a="3"), expected_version=5) == (FAILED, "", 6)
    assert (await service.get(run_id)).failure.message == "boom"
    assert await data(store, run_id) == {"a": "3"}


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [{"name": "a"}],
        [{"name": "", "set": json("1")}],
        [{"name": "*", "set": json("1")}],
        [{"name": "a\0", "set": json("1")}],
        [{"name": "a", "remove": False}],
        [{"name": "a", "merge": json("[]")}],
        [{"name": "a", "merge": json("{")}],
        [{"name": "a", "merge": json("[" * 20_000)}],
        [{"name": "a", "merge": {"data": b"{}"}}],
        [{"name": "a", "merge": {"json": "{}", "metadata": {"encoding": "x"}}}],
        [*put(a="1"), *put(a="2")],
        [{"name": "a", "set": json("x" * 2_100_000)}],
        put(**{f"n{n}": "1" for n in range(257)}),
    ],
)
async def test_bad_changes_are_refused(shared: Service, changes: list[dict[str, Any]]) -> None:
    store = Store(shared, "run")
    run_id = await create(shared)
    assert await refusal(change(store, run_id, changes)) == INVALID
    assert await data(store, run_id) == {}


async def test_bad_first_data_is_refused(service: Service) -> None:
    for bad in ({"": json("1")}, {"*": json("1")}, {f"n{n}": json("1") for n in range(1_001)}):
        assert await refusal(create(service, data=bad)) == INVALID
