"""RetentionService over the wire: one run deleted, and many that ended before a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from tests.engine.replica import look
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import namespaces_pb2, retention_pb2, types_pb2

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


def stamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


async def later(service: Service) -> Timestamp:
    return stamp(service.clock.now() + timedelta(days=1))


async def delete(service: Service, **fields: Any) -> bool:
    answer = await service.retention.DeleteRun(retention_pb2.DeleteRunRequest(**fields), timeout=TIMEOUT)
    return bool(answer.deleted)


async def clean(service: Service, **fields: Any) -> Any:
    request = retention_pb2.CleanUpRunsRequest(**{"cutoff": await later(service), **fields})
    return await service.retention.CleanUpRuns(request, timeout=TIMEOUT)


async def ended(service: Service, count: int = 1, **fields: Any) -> list[str]:
    made = [await service.begin(**fields) for _ in range(count)]
    for run_id in made:
        await service.end(run_id, fields.get("namespace", ""))
    return made


async def test_an_ended_run_is_deleted_and_then_is_not_there(service: Service) -> None:
    (run_id,) = await ended(service, workflow_id="w")
    assert await delete(service, run_id=run_id)
    assert not await delete(service, run_id=run_id)
    assert not await delete(service, workflow_id="w")
    assert await refusal(service.get(run_id)) == ("NOT_FOUND", "RUN_NOT_FOUND")
    # Its id and its name are free.
    assert await service.begin(run_id=run_id, workflow_id="w") == run_id


async def test_an_open_run_is_refused_unless_it_is_ended_first(service: Service) -> None:
    run_id = await service.begin(workflow_id="w")
    assert await refusal(delete(service, run_id=run_id)) == ("FAILED_PRECONDITION", "RUN_NOT_ENDED")
    assert (await service.get(run_id)).run_id == run_id
    assert await delete(service, workflow_id="w", force=True)
    assert not await delete(service, run_id=run_id, force=True)


async def test_a_repeat_of_a_deletion_deletes_no_other_run(service: Service) -> None:
    """The name has a new run by then, which the repeat does not mean."""
    await service.begin(workflow_id="w")
    once: dict[str, Any] = {"workflow_id": "w", "force": True, "request_id": "once"}
    assert await delete(service, **once)
    run_id = await service.begin(workflow_id="w")
    assert await delete(service, **once)
    assert (await service.get(run_id)).phase == types_pb2.RUN_PHASE_PENDING
    other = delete(service, workflow_id="v", request_id="once")
    assert await refusal(other) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


async def test_a_deletion_keeps_to_its_namespace(service: Service) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    (run_id,) = await ended(service)
    assert not await delete(service, namespace="other", run_id=run_id)
    assert await delete(service, namespace="-", run_id=run_id)


async def test_a_parent_keeps_its_record_of_a_child_that_goes(service: Service) -> None:
    from tests.api.stores import Store  # noqa: PLC0415 - for this one

    driven = Store(service, "run")
    parent = (await driven.call("CreateRun", type="t")).run_id
    child = (await driven.call("CreateRun", type="t", parent_run_id=parent)).run_id
    await service.end(child)
    assert await delete(service, run_id=child)
    await service.end(parent)
    assert (await service.get(parent)).run_id == parent


async def test_many_who_delete_one_run(service: Service) -> None:
    """Over two replicas: one deletes it, and the others hear that it is gone, or that somebody is at it."""
    async with serving(service.settings.database_url or "") as other:
        for _ in range(5):
            (run_id,) = await ended(service)
            calls = [delete(each, run_id=run_id) for each in (service, other) * 4]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert answers.count(True) == 1


async def test_a_clean_up_counts_first_and_then_deletes_what_fits(service: Service) -> None:
    surveys, open_run = await ended(service, 3, type="survey"), await service.begin(type="survey")
    (other,) = await ended(service, type="other")
    only = {"filter": "type = survey AND phase = TERMINATED"}
    assert (await clean(service, dry_run=True, **only)).count == 3
    assert (await clean(service, **only)).count == 3
    assert (await clean(service, **only)).count == 0
    for run_id in surveys:
        assert (await refusal(service.get(run_id)))[1] == "RUN_NOT_FOUND"
    assert [(await service.get(run_id)).run_id for run_id in (open_run, other)] == [open_run, other]


async def test_a_clean_up_is_bounded_and_goes_on(service: Service) -> None:
    await ended(service, 5)
    counts, token, cutoff = [], "", await later(service)
    while True:
        answer = await clean(service, cutoff=cutoff, page_size=2, page_token=token)
        counts.append(answer.count)
        token = answer.next_page_token
        if not token:
            break
    assert counts == [2, 2, 1]
    first = await clean(service, cutoff=cutoff, page_size=1, dry_run=True)
    assert (first.count, first.next_page_token) == (0, "")


async def test_what_ended_at_the_cutoff_stays(service: Service) -> None:
    (run_id,) = await ended(service)
    end = (await service.get(run_id)).end_time
    assert (await clean(service, cutoff=end)).count == 0
    assert (await clean(service, cutoff=Timestamp(seconds=end.seconds + 1))).count == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cutoff": None}, "cutoff"),
        ({"cutoff": Timestamp(seconds=-1)}, "cutoff"),
        ({"filter": "type ="}, "filter"),
        ({"filter": "nothing = 1"}, "filter"),
        ({"page_size": -1}, "page_size"),
        ({"namespace": "-"}, "namespace"),
        ({"namespace": "a\0"}, "namespace"),
    ],
)
async def test_a_bad_request_changes_nothing(service: Service, fields: dict[str, Any], field: str) -> None:
    (run_id,) = await ended(service)
    code, reason = await refusal(clean(service, **fields))
    assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_FIELD"), field
    assert (await service.get(run_id)).run_id == run_id


async def test_two_clean_ups_at_once_delete_each_run_once(service: Service) -> None:
    await ended(service, 40)
    async with serving(service.settings.database_url or "") as other:
        answers = await asyncio.gather(*(clean(each, page_size=20) for each in (service, other) * 3))
        answers.append(await clean(service))
        assert sum(answer.count for answer in answers) == 40
    async with look(service.settings.database_url or "") as database:
        for table in ("closed_runs", "events", "run_ids"):
            assert await database.value(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - ours
