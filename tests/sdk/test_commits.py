"""Commits of the client: writes that are collected, sent together, and told what came of them."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import Store
from tests.service import Service, serving

from stepwell import Client, reasons, sync
from stepwell.v1 import run_store_pb2, runs_pb2, types_pb2


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with await Client.connect(f"127.0.0.1:{service.server.port}") as connected:
        yield connected


async def history(service: Service, run_id: str) -> list[str]:
    return [event.type for event in await Store(service, "event").pages("ReadEvents", "events", run_id=run_id)]


async def test_a_block_is_one_transaction(client: Client, service: Service) -> None:
    """Every kind of write that has a method, in the order in which they were added."""
    async with client.commit() as commit:
        order = commit.create_run("order", {"seats": 2}, workflow_id="order-17", running=True)
        begun = commit.begin_step(order, "charge", 12)
        saved = commit.save_step(order, "reserve", {"seats": 2})
        reserved = commit.append_event(order, "Reserved", caller_seq=1)
        commit.signal(client.run(workflow_id="order-17"), "go", request_id="s1")
        commit.create_timer(order, 1, dt.datetime(2024, 1, 1, tzinfo=dt.UTC))
        job = commit.start_run("fulfil", 1, workflow_id="f", priority=7)
        assert len(commit) == 7
        with pytest.raises(RuntimeError):
            _ = saved.answer
    assert (saved.answer.replaced, reserved.answer.number, begun.answer.step.input.json) == (False, 4, "12")
    assert (await client.run(job).describe()).priority == 7
    version = (await client.run(order).describe()).version
    async with client.commit() as commit:
        commit.complete_step(begun.answer.step.number, True)
        commit.complete_run(order, "done", expected_version=version)
        commit.terminate_run(client.run(job), "not needed")
    assert (await client.run(order).describe()).phase == types_pb2.RUN_PHASE_COMPLETED
    assert await history(service, job) == ["RunStarted", "RunTerminated"]


async def test_what_leaves_the_block_by_an_exception_is_not_sent(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what it leaves
        async with client.commit() as commit:
            order = commit.create_run("order")
            raise ZeroDivisionError
    with pytest.raises(reasons.RunNotFound):
        await client.run(order).describe()
    async with client.commit():
        pass


async def test_a_refusal_says_which_write_it_was(client: Client, service: Service) -> None:
    async with client.commit() as commit:
        order = commit.create_run("order", running=True)
    commit = client.commit()
    commit.append_event(order, "A")
    commit.fail_run(order, types_pb2.Failure(message="no"), expected_version=77)
    with pytest.raises(reasons.RunVersionChanged) as refused:
        await commit.send()
    assert refused.value.metadata["at"] == "writes[1].mark_run_failed"
    assert await history(service, order) == ["RunStarted"]


async def test_sent_twice_it_is_done_once(client: Client, service: Service) -> None:
    """By its own id, or by one that is given, also from another program."""
    async with client.commit() as commit:
        order = commit.create_run("order", running=True)
    for _ in range(2):
        again = client.commit(request_id="r")
        written = again.append_event(order, "A")
        await again.send()
        await again.send()
        assert written.answer.number == 2
    assert await history(service, order) == ["RunStarted", "A"]


async def test_what_a_commit_takes(client: Client) -> None:
    """Any write of the closed list, as its request; nothing else."""
    async with client.commit() as commit:
        order = commit.create_run("order")
        running: Any = commit.add(run_store_pb2.MarkRunRunningRequest(run_id=order, step_name="s"))
    assert running.answer.changed
    with pytest.raises(TypeError, match="ListRunsRequest"):
        client.commit().add(runs_pb2.ListRunsRequest())
    with pytest.raises(ValueError, match="UUID"):
        client.commit().append_event("order-17", "A")
    with pytest.raises(ValueError, match="time zone"):
        client.commit().create_timer(order, 1, dt.datetime(2024, 1, 1))  # noqa: DTZ001 - what is refused


async def test_without_asyncio(service: Service) -> None:
    def work() -> int:
        with sync.Client.connect(f"127.0.0.1:{service.server.port}") as client:
            with client.commit() as commit:
                order = commit.create_run("order", running=True)
                appended = commit.append_event(order, "A")
            with pytest.raises(ZeroDivisionError), client.commit() as commit:  # noqa: PT012
                commit.cancel_driven_run(order)
                raise ZeroDivisionError
            with client.commit() as commit:
                commit.cancel_driven_run(client.run(order), "no need")
            return appended.answer.number

    assert await asyncio.to_thread(work) == 2
