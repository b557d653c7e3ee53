"""Search attributes over the wire: given at starts, patched, shown, filtered by, and refused where they are wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from tests.api.stores import Store
from tests.hostile.answers import fields_of
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import runs_pb2, schedules_pb2, search_attributes_pb2
from stepwell_server.model.runs import Phase

NEW_YEAR = Timestamp(seconds=1_767_225_600)
GIVEN: list[dict[str, Any]] = [
    {},
    {"env": {"text": "prod"}, "score": {"number": 0.9}, "ok": {"flag": True}},
    {"env": {"text": "prod"}, "score": {"integer": 0}, "ok": {"flag": False}, "due": {"time": NEW_YEAR}},
    {"env": {"text": "staging"}, "score": {"integer": 2**62 + 1}, "ok": {"text": "true"}},
    {"env": {"text": "2026-01-01T00:00:00Z"}, "score": {"number": -1e300}, "due": {"text": "soon"}},
    {"env": {}, "a.b-c_d": {"text": 'it\'s "so" \\ %_*'}, "score": {"text": "0.9"}},
]


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def upsert(service: Service, run_id: str, patch: dict[str, Any], **fields: Any) -> Any:
    request = search_attributes_pb2.UpsertSearchAttributesRequest(run_id=run_id, attributes=patch, **fields)
    return await service.runs.UpsertSearchAttributes(request, timeout=TIMEOUT)


def shown(attributes: Any) -> dict[str, Any]:
    """Values by name, each with its kind."""
    return {
        name: (value.WhichOneof("value"), getattr(value, value.WhichOneof("value") or "text"))
        for name, value in attributes.items()
    }


async def listed(service: Service, text: str, **fields: Any) -> list[str]:
    """The run ids of all pages."""
    found: list[str] = []
    token = ""
    while True:
        request = runs_pb2.ListRunsRequest(filter=text, page_token=token, **fields)
        page = await service.runs.ListRuns(request, timeout=TIMEOUT)
        found += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            return found


async def test_they_are_shown_as_they_were_given(service: Service) -> None:
    """Every kind, by each of the calls that show a run, open and ended."""
    for given in GIVEN:
        run_id = await service.begin(search_attributes=given, task_queue="none")
        expected = shown(runs_pb2.StartRunRequest(search_attributes=given).search_attributes)
        assert shown((await service.get(run_id)).search_attributes) == expected
        page = await service.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=1), timeout=TIMEOUT)
        assert shown(page.runs[0].search_attributes) == expected
        await service.end(run_id)
        assert shown((await service.get(run_id)).search_attributes) == expected
        wait = runs_pb2.WaitRunRequest(run_id=run_id)
        assert shown((await service.runs.WaitRun(wait, timeout=TIMEOUT)).run.search_attributes) == expected


async def test_driven_runs_have_them_too(service: Service) -> None:
    store = Store(service, "run")
    run_id = (await store.call("CreateRun", type="t", search_attributes=GIVEN[1])).run_id
    (run,) = (await store.call("ListDrivenRuns", filter="attribute.ok = true")).runs
    assert (run.run_id, run.search_attributes["score"].number) == (run_id, 0.9)
    assert (await store.call("ReadRun", run_id=run_id)).run.search_attributes["env"].text == "prod"
    assert not (await store.call("ListDrivenRuns", filter="attribute.ok = false")).runs


async def test_a_patch_is_merged(service: Service) -> None:
    run_id = await service.begin(search_attributes=GIVEN[1])
    answer = await upsert(service, run_id, {"env": {"text": "staging"}, "region": {"text": "eu"}, "ok": {}})
    assert (answer.run_id, answer.changed) == (run_id, True)
    expected = {"env": ("text", "staging"), "region": ("text", "eu"), "score": ("number", 0.9)}
    assert shown(answer.attributes) == expected
    assert shown((await service.get(run_id)).search_attributes) == expected
    kept = await upsert(service, run_id, {"region": {}}, keep_absent=True)
    assert shown(kept.attributes)["region"] == (None, "")
    assert not (await upsert(service, run_id, {"region": {}}, keep_absent=True)).changed


async def test_a_repeat_is_answered_as_the_first_was(service: Service) -> None:
    run_id = await service.begin()
    first = await upsert(service, run_id, {"n": {"integer": 1}}, request_id="r")
    await upsert(service, run_id, {"n": {"integer": 2}})
    assert await upsert(service, run_id, {"n": {"integer": 1}}, request_id="r") == first
    assert (await service.get(run_id)).search_attributes["n"].integer == 2
    other = upsert(service, run_id, {"n": {"integer": 3}}, request_id="r")
    assert (await refusal(other))[1] == "REQUEST_ID_REUSED"


async def test_a_patch_wakes_nobody(service: Service) -> None:
    """It is a line of history, and no more: the task that waits is the one of the start."""
    run_id = await service.begin()
    before = await service.get(run_id)
    await upsert(service, run_id, {"n": {"integer": 1}})
    after = await service.get(run_id)
    assert (after.phase, after.event_count) == (before.phase, before.event_count + 1)
    assert after.task_wait.ready_time == before.task_wait.ready_time


@pytest.mark.parametrize("is_ended", [False, True], ids=["open", "ended"])
async def test_patches_from_two_replicas_lose_nothing(database_url: str, service: Service, is_ended: bool) -> None:
    """Each has names of its own, and all are there in the end; the bound holds, too."""
    async with serving(database_url) as other:
        run_id = await service.begin()
        if is_ended:
            await service.end(run_id)
        patches = [
            upsert(each, run_id, {f"{name}{place}": {"integer": place}})
            for place in range(20)
            for name, each in (("a", service), ("b", other))
        ]
        answers = await asyncio.gather(*patches, return_exceptions=True)
        refused = [each for each in answers if isinstance(each, BaseException)]
        found = (await service.get(run_id)).search_attributes
        assert (len(found), len(refused)) == (32, 8)
        assert all("32" in str(each) for each in refused)
        written = {name for each in answers if not isinstance(each, BaseException) for name in each.attributes}
        assert set(found) == written


async def test_an_ended_run_changes_under_one_hand_at_a_time(database_url: str, service: Service) -> None:
    """While somebody has its row, a patch waits aside, as one of an open run does."""
    run_id = await service.begin()
    await service.end(run_id)
    other = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    try:
        async with other.transaction():
            await other.execute("SELECT FROM closed_runs WHERE run_id = $1 FOR NO KEY UPDATE", UUID(run_id))
            request = search_attributes_pb2.UpsertSearchAttributesRequest(run_id=run_id, attributes=GIVEN[1])
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await service.runs.UpsertSearchAttributes(request, timeout=0.5)
            assert refused.value.code() in {grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED}
    finally:
        await other.close()
    assert (await upsert(service, run_id, {"n": {"integer": 1}})).changed


FITS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "attribute.env = prod": lambda of: of.get("env") == {"text": "prod"},
    'attribute.env = "prod" AND attribute.score > 0.5': lambda of: of == GIVEN[1],
    "attribute.env != prod": lambda of: of.get("env") != {"text": "prod"},
    "NOT attribute.env = prod": lambda of: of.get("env") != {"text": "prod"},
    "attribute.env = prod OR attribute.env = staging": lambda of: (
        of.get("env") in ({"text": "prod"}, {"text": "staging"})
    ),
    "attribute.env:*": lambda of: bool(of.get("env")),
    "NOT attribute.env:*": lambda of: not of.get("env"),
    "attribute.env = p*": lambda of: of.get("env") == {"text": "prod"},
    "attribute.env != p*": lambda of: of.get("env") != {"text": "prod"},
    'attribute.a.b-c_d = "it\'s \\"so\\" \\\\ %_\\*"': lambda of: "a.b-c_d" in of,
    'attribute.a.b-c_d = "%*"': lambda of: False,
    "attribute.score > 0.5": lambda of: of in (GIVEN[1], GIVEN[3]),
    "attribute.score >= 0 AND attribute.score < 1": lambda of: of in (GIVEN[1], GIVEN[2]),
    "attribute.score = 0.0": lambda of: of is GIVEN[2],
    "attribute.score = 4611686018427387905": lambda of: of is GIVEN[3],
    "attribute.score = 4611686018427387904": lambda of: False,
    "attribute.score <= -1e300": lambda of: of is GIVEN[4],
    'attribute.score = "0.9"': lambda of: of is GIVEN[5],
    "attribute.ok = true": lambda of: of is GIVEN[1],
    "attribute.ok = false": lambda of: of is GIVEN[2],
    'attribute.ok = "true"': lambda of: of is GIVEN[3],
    'attribute.due > "2025-12-31T00:00:00Z"': lambda of: of is GIVEN[2],
    'attribute.due = "2026-01-01T01:00:00+01:00"': lambda of: of is GIVEN[2],
    'attribute.env = "2026-01-01T00:00:00Z"': lambda of: of is GIVEN[4],
    "attribute.due = soon AND phase = TERMINATED": lambda of: of is GIVEN[4],
    "attribute.none = 1": lambda of: False,
    "attribute.none != 1": lambda of: True,
}


async def test_runs_are_found_by_them(service: Service) -> None:
    """Open and ended, page by page, and counted; nothing of another namespace."""
    runs = {await service.begin(search_attributes=given): given for given in GIVEN}
    for run_id in list(runs)[::2]:
        await service.end(run_id)
    for text, fits in FITS.items():
        expected = [run_id for run_id in reversed(runs) if fits(runs[run_id])]
        assert await listed(service, text) == expected, text
        assert await listed(service, text, page_size=1) == expected, text
        assert sorted(await listed(service, text, page_size=1, order_by="type")) == sorted(expected), text
        request = runs_pb2.ListRunsRequest(filter=text, count_total=True)
        assert (await service.runs.ListRuns(request, timeout=TIMEOUT)).total_size == len(expected), text


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("attribute. = 1", 1, "behind `attribute.` stand 1 to 64"),
        ("attribute.9 = 1", 1, "behind `attribute.` stand 1 to 64"),
        (f"attribute.{'x' * 65} = 1", 1, "behind `attribute.` stand 1 to 64"),
        ("attribute.a*b = 1", 1, "behind `attribute.` stand 1 to 64"),
        ("attribute = 1", 1, "is no field of this list"),
        ("attributes.env = 1", 1, "is no field of this list"),
        ("attribute.score > high", 19, "expected a number, or a time in quotes"),
        ("attribute.score > true", 19, "expected a number, or a time in quotes"),
        ('attribute.score > "1"', 19, "expected a number, or a time in quotes"),
        ("attribute.env:prod", 15, "holds where it is set"),
        ("attribute.env", 14, "expected one of ="),
        ('attribute.env = "a\0"', 17, "without control characters"),
        (f'attribute.env = "{"x" * 1025}"', 17, "at most 1024 bytes"),
        ("attribute.env = a; DROP TABLE runs", 18, "means nothing here"),
        (" OR ".join(["attribute.a = 1"] * 65), 1217, "more than 64"),
    ],
)
async def test_a_hostile_filter_is_refused_where_it_stands(
    shared: Service, text: str, place: int, expected: str
) -> None:
    with pytest.raises(Exception, match=f"at character {place}:") as refused:
        await listed(shared, text)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"": {"text": "a"}}, "search_attributes"),
        ({"9a": {"text": "a"}}, "search_attributes"),
        ({"a b": {"text": "a"}}, "search_attributes"),
        ({"a\0": {"text": "a"}}, "search_attributes"),
        ({"x" * 65: {"text": "a"}}, "search_attributes"),
        ({"a": {"text": "b\0"}}, "search_attributes[a].text"),
        ({"a": {"text": "b\n"}}, "search_attributes[a].text"),
        ({"a": {"text": "ä" * 513}}, "search_attributes[a].text"),
        ({"a": {"number": math.nan}}, "search_attributes[a].number"),
        ({"a": {"number": math.inf}}, "search_attributes[a].number"),
        ({"a": {"time": Timestamp(seconds=-1)}}, "search_attributes[a].time"),
        ({f"a{place}": {"flag": True} for place in range(33)}, "search_attributes"),
        ({f"a{place}": {"text": "x" * 1024} for place in range(8)}, "search_attributes"),
    ],
)
async def test_what_is_wrong_is_refused_by_its_name(service: Service, given: dict[str, Any], field: str) -> None:
    """At starts and in patches, before anything is written."""
    with pytest.raises(Exception, match="search_attributes") as refused:
        await service.begin(search_attributes=given, workflow_id="w")
    assert fields_of(refused.value) == [field]  # type: ignore[arg-type]
    run_id = await service.begin(workflow_id="w")
    with pytest.raises(Exception, match="attributes") as refused:
        await upsert(service, run_id, given)
    assert fields_of(refused.value) == [field.removeprefix("search_")]  # type: ignore[arg-type]
    assert not (await service.get(run_id)).search_attributes


async def test_refusals(service: Service) -> None:
    unknown = "00000000-0000-7000-8000-000000000000"
    assert await refusal(upsert(service, unknown, {"a": {"flag": True}})) == ("NOT_FOUND", "RUN_NOT_FOUND")
    run_id = await service.begin(search_attributes={f"a{place}": {"flag": True} for place in range(32)})
    assert await refusal(upsert(service, run_id, {})) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await refusal(upsert(service, run_id, {"b": {"flag": True}})) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert (await upsert(service, run_id, {"b": {"flag": True}, "a0": {}})).changed


async def test_schedules_pass_them_on(service: Service) -> None:
    schedule = {"name": "s", "spec": {"cron": "0 0 1 1 *"}, "run": {"type": "t", "search_attributes": GIVEN[2]}}
    created = await service.schedules.CreateSchedule(
        schedules_pb2.CreateScheduleRequest(schedule=schedule),  # type: ignore[arg-type]
        timeout=TIMEOUT,
    )
    expected = shown(runs_pb2.StartRunRequest(search_attributes=GIVEN[2]).search_attributes)
    assert shown(created.schedule.run.search_attributes) == expected
    trigger = schedules_pb2.TriggerScheduleRequest(name="s")
    run_id = (await service.schedules.TriggerSchedule(trigger, timeout=TIMEOUT)).run_id
    assert shown((await service.get(run_id)).search_attributes) == expected
    assert (await service.get(run_id)).phase == Phase.PENDING
