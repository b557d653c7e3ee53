"""Starting and listing runs in tests, by their fields."""

from __future__ import annotations

from typing import Any

from tests.service import TIMEOUT, Service, refusal

from stepwell.v1 import namespaces_pb2, runs_pb2


def start(**fields: Any) -> runs_pb2.StartRunRequest:
    return runs_pb2.StartRunRequest(**{"type": "t", **fields})


async def started(service: Service, **fields: Any) -> tuple[str, bool]:
    response = await service.runs.StartRun(start(**fields), timeout=TIMEOUT)
    return response.run_id, response.started


async def refused(service: Service, **fields: Any) -> str:
    return (await refusal(service.runs.StartRun(start(**fields), timeout=TIMEOUT)))[1]


async def create_namespace(service: Service, name: str) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace=name))


async def listed(service: Service, **fields: Any) -> list[Any]:
    """All pages of a list."""
    runs: list[Any] = []
    token = ""
    while True:
        request = runs_pb2.ListRunsRequest(page_token=token, **fields)
        response = await service.runs.ListRuns(request, timeout=TIMEOUT)
        runs += response.runs
        token = response.next_page_token
        if not token:
            return runs
