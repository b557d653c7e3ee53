"""A namespace's retention and archive: what may be set, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tests.api.stores import span
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import namespaces_pb2


@pytest_asyncio.fixture
async def service(database_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(database_url, archive_folder=tmp_path) as running:
        yield running


async def update(service: Service, *paths: str, **fields: Any) -> Any:
    request = namespaces_pb2.UpdateNamespaceRequest(**{"update_mask": {"paths": paths}, **fields})
    return (await service.namespace_calls.UpdateNamespace(request, timeout=TIMEOUT)).namespace


async def get(service: Service, name: str = "main") -> Any:
    request = namespaces_pb2.GetNamespaceRequest(namespace=name)
    return (await service.namespace_calls.GetNamespace(request, timeout=TIMEOUT)).namespace


async def test_what_is_named_changes_and_nothing_else(service: Service, tmp_path: Path) -> None:
    assert not (await get(service)).HasField("retention")
    url = f"file://{tmp_path}/a"
    changed = await update(service, "retention", retention=span(3600), archive_url=url)
    assert (changed.retention, changed.archive_url) == (span(3600), "")
    changed = await update(service, "archive_url", archive_url=url + "/")
    assert (changed.retention, changed.archive_url) == (span(3600), url)
    assert await get(service) == changed
    changed = await update(service, "archive_url", "retention")
    assert not changed.HasField("retention")
    assert changed.archive_url == ""


async def test_a_repeat_changes_nothing(service: Service) -> None:
    first = await update(service, "retention", retention=span(10), request_id="once")
    await update(service, "retention", retention=span(20))
    assert await update(service, "retention", retention=span(10), request_id="once") == first
    assert (await get(service)).retention == span(20)
    other = update(service, "retention", retention=span(30), request_id="once")
    assert (await refusal(other))[1] == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("paths", "fields", "reason"),
    [
        ((), {}, "INVALID_FIELD"),
        (("name",), {}, "INVALID_FIELD"),
        (("retention", "create_time"), {}, "INVALID_FIELD"),
        (("retention",), {"retention": Duration(seconds=-1)}, "INVALID_FIELD"),
        (("retention",), {"retention": Duration(nanos=1)}, "INVALID_FIELD"),
        (("retention",), {"retention": Duration(seconds=2**40)}, "INVALID_FIELD"),
        (("archive_url",), {"archive_url": "http://x"}, "INVALID_FIELD"),
        (("archive_url",), {"archive_url": "s3://k:s@bucket"}, "INVALID_FIELD"),
        (("archive_url",), {"archive_url": "\0"}, "INVALID_FIELD"),
        (("archive_url",), {"archive_url": "file:///etc"}, "ARCHIVES_NOT_SUPPORTED"),
        (("retention",), {"namespace": "none"}, "NAMESPACE_NOT_FOUND"),
    ],
)
async def test_what_is_refused_changes_nothing(
    service: Service, paths: tuple[str, ...], fields: dict[str, Any], reason: str
) -> None:
    before = await get(service)
    assert (await refusal(update(service, *paths, **fields)))[1] == reason
    assert await get(service) == before
