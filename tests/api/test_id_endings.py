"""Watches of ids that end alike: each hears of its own, whoever else watches, and of what goes on with their work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from tests.api.test_job_ends import JobWatcher
from tests.api.test_jobs import begin as begin_job
from tests.api.test_jobs import cancel as cancel_job
from tests.api.watching import Watcher
from tests.service import TIMEOUT, Holder, Service, refusal, serving

from stepwell.v1 import jobs_pb2, runs_pb2
from stepwell_server.engine.reported import Successor
from stepwell_server.ids import uuid7, uuid7_ending_as
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


def an_id(ending: str) -> str:
    return str(uuid7())[: -len(ending)] + ending


@asynccontextmanager
async def watching(service: Service, *endings: str, cursor: str = "") -> AsyncIterator[list[Watcher]]:
    """Watches that have begun, one for each ending."""
    async with AsyncExitStack() as stack:
        watchers = []
        for ending in endings:
            request = runs_pb2.WatchRunsRequest(id_suffix=ending, cursor=cursor)
            watcher = Watcher(service.runs.WatchRuns(request))
            stack.callback(watcher.call.cancel)
            await watcher.read()
            watchers.append(watcher)
        yield watchers


async def run_and_end(service: Service, *endings: str) -> list[str]:
    """Runs whose ids end so, one after another."""
    ids = [await service.begin(run_id=an_id(ending)) for ending in endings]
    for run_id in ids:
        await service.end(run_id)
    return ids


async def test_a_watch_of_an_ending_hears_of_no_others(service: Service, replica: Service) -> None:
    """From memory and from the table; one of everything still hears all. Digits are of either case."""
    async with watching(service, "12cd", "CD", "", "0") as near, watching(replica, "12cd", "CD", "", "0") as far:
        mine, like_it, other = await run_and_end(service, "ab12cd", "ab34cd", "ab12ce")
        last = await run_and_end(service, "000012cd", "000000")
        for whole, two, every, zero in (near, far):
            assert await whole.until(2) == [mine, last[0]]
            assert await two.until(3) == [mine, like_it, last[0]]
            assert await every.until(5) == [mine, like_it, other, *last]
            assert await zero.until(1) == [last[1]]


async def test_who_leaves_takes_nothing_from_the_others(service: Service) -> None:
    """Two with one ending, of which one goes; and the last of an ending, before it comes again."""
    async with watching(service, "aaaa") as (stays,):
        async with watching(service, "aaaa", "bb") as (leaves, alone):
            ids = await run_and_end(service, "aaaa", "bb")
            assert (await leaves.until(1), await alone.until(1)) == (ids[:1], ids[1:])
        async with asyncio.timeout(TIMEOUT):
            while len([*service.watches._streams]) > 1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
        async with watching(service, "bb") as (again,):
            more = await run_and_end(service, "bb", "aaaa")
            assert (await again.until(1), await stays.until(2)) == (more[:1], [ids[0], more[1]])


async def test_a_cursor_goes_on_with_an_ending(service: Service) -> None:
    """A cursor is a place, whatever its stream told of: of what ended since, the watch hears its own."""
    async with watching(service, "", "0001") as (every, one):
        await run_and_end(service, "0002", "0001")
        await every.until(2)
        await one.until(1)
    ids = await run_and_end(service, "0002", "0001", "0002", "0001")
    for cursor in (every.cursor, one.cursor):
        async with watching(service, "0001", cursor=cursor) as (after,):
            assert await after.until(2) == ids[1::2]


async def test_starts_are_told_of_an_ending_too(service: Service) -> None:
    news = [runs_pb2.RUN_NEWS_STARTED, runs_pb2.RUN_NEWS_ENDED]
    call = service.runs.WatchRuns(runs_pb2.WatchRunsRequest(id_suffix="f1", news=news))
    watcher = Watcher(call)
    await watcher.read()
    _, run_id = await run_and_end(service, "f2", "f1")
    started: list[str] = []
    while not watcher.heard:
        started += [notice.run_id for notice in (await watcher.read()).notices]
    assert (started, watcher.heard) == ([run_id], [run_id])
    call.cancel()


async def test_what_continues_a_run_ends_as_that_does(service: Service) -> None:
    """So the watch of a run's ending hears of its whole chain."""
    async with watching(service, "beef01") as (watcher,):
        first = await service.begin(run_id=an_id("beef01"), task_queue="q")
        await (await Holder.of(service, "q")).end(Phase.COMPLETED, successor=Successor(NULL))
        second = (await service.get(first)).continued_run_id
        await service.end(second)
        assert await watcher.until(2) == [first, second]
    assert second[-6:] == "beef01"


def test_an_id_made_after_another_is_of_its_own() -> None:
    """All but the ending is new, and rises with time."""
    model = UUID("00000000-0000-7000-8000-000000abcdef")
    made = [uuid7_ending_as(model) for _ in range(1000)]
    assert {str(each)[-6:] for each in made} == {"abcdef"}
    assert sorted(set(made)) == made
    assert len({str(each)[19:-6] for each in made}) > 990
    assert {each.version for each in made} == {7}


async def test_jobs_are_watched_by_their_ending(service: Service) -> None:
    call = service.jobs.WatchJobs(jobs_pb2.WatchJobsRequest(id_suffix="77"))
    watcher = JobWatcher(call)
    await watcher.read()
    ids = [await begin_job(service, job_id=an_id(ending)) for ending in ("78", "77", "0077")]
    for job_id in ids:
        await cancel_job(service, job_id)
    assert await watcher.until(2) == ids[1:]
    call.cancel()


@pytest.mark.parametrize("ending", ["g", "1234567", "0x1", "-1", " 1", "\u0661", "1\n", "ab\0"])
async def test_what_is_no_ending_is_refused(service: Service, ending: str) -> None:
    calls: list[Any] = [
        service.runs.WatchRuns(runs_pb2.WatchRunsRequest(id_suffix=ending)),
        service.jobs.WatchJobs(jobs_pb2.WatchJobsRequest(id_suffix=ending)),
    ]
    for call in calls:
        assert await refusal(call.read()) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        assert "id_suffix must be the last 1 to 6 hexadecimal digits" in await call.details()
