"""Hearing of starts, pauses and what else happens to runs: each once, before the end, over two replicas and breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import timestamp_pb2
from tests.api.watching import Watcher
from tests.service import TIMEOUT, Holder, Service, refusal, serving

from stepwell.v1 import namespaces_pb2, repairs_pb2, retention_pb2, runs_pb2
from stepwell_server.dispatch import watch_streams
from stepwell_server.dispatch.cursors import Cursor
from stepwell_server.dispatch.watch_streams import Found, Stream, Watched, told_of
from stepwell_server.ids import uuid7
from stepwell_server.model.notices import RunNews
from stepwell_server.model.payloads import Failure
from stepwell_server.model.runs import Phase
from stepwell_server.store.notices import Notice
from stepwell_server.store.watches import BatchNews, End

ENDED, STARTED, PAUSED, RESUMED, REOPENED = (
    runs_pb2.RUN_NEWS_ENDED,
    runs_pb2.RUN_NEWS_STARTED,
    runs_pb2.RUN_NEWS_PAUSED,
    runs_pb2.RUN_NEWS_RESUMED,
    runs_pb2.RUN_NEWS_REOPENED,
)
ALL = (ENDED, STARTED, PAUSED, RESUMED, REOPENED)
Line = tuple[int, str]
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


class NewsWatcher(Watcher):
    """A watch of all news: what happened, to which run."""

    def __init__(self, call: Any) -> None:
        super().__init__(call)
        self.notices: list[Any] = []
        self._heard: list[Line] = []

    async def read(self) -> Any:
        message = await super().read()
        self.notices += message.notices
        self._heard += [(notice.news, notice.run_id) for notice in message.notices]
        self._heard += [(ENDED, end.run_id) for end in message.ends]
        return message

    @property
    def heard(self) -> list[Line]:
        return self._heard

    def of(self, run_id: str) -> list[int]:
        return [news for news, of in self.heard if of == run_id]


@asynccontextmanager
async def watching(
    service: Service, news: Sequence[int] = ALL, cursor: str = "", namespace: str = ""
) -> AsyncIterator[NewsWatcher]:
    """A watch that has begun."""
    request = runs_pb2.WatchRunsRequest(cursor=cursor, namespace=namespace)
    request.news.extend(news)  # type: ignore[arg-type]
    watcher = NewsWatcher(service.runs.WatchRuns(request))
    await watcher.read()
    yield watcher
    watcher.call.cancel()


async def live(service: Service, namespace: str = "") -> str:
    """A run that is started, paused, resumed and ended."""
    run_id = await service.begin(namespace=namespace)
    named: dict[str, Any] = {"namespace": namespace, "run_id": run_id}
    await service.runs.PauseRun(runs_pb2.PauseRunRequest(**named, reason="lunch"), timeout=TIMEOUT)
    await service.runs.ResumeRun(runs_pb2.ResumeRunRequest(**named), timeout=TIMEOUT)
    await service.end(run_id, namespace)
    return run_id


LIFE = [STARTED, PAUSED, RESUMED, ENDED]


async def test_a_life_is_told_in_its_order(service: Service, replica: Service) -> None:
    """From memory and from the table alike, with what a person wants to know."""
    async with watching(service) as near, watching(replica) as far:
        run_id = await service.begin(workflow_id="w", task_queue="q")
        await service.runs.PauseRun(runs_pb2.PauseRunRequest(run_id=run_id, reason="lunch"), timeout=TIMEOUT)
        await service.runs.ResumeRun(runs_pb2.ResumeRunRequest(run_id=run_id), timeout=TIMEOUT)
        await (await Holder.of(service, "q")).end(Phase.FAILED, failure=Failure("Bad", "no"))
        await far.until(4)  # an end that is undone before it is read is not told
        await service.runs.RetryRun(repairs_pb2.RetryRunRequest(run_id=run_id, reason="mended"), timeout=TIMEOUT)
        await service.end(run_id)
        for watcher in (near, far):
            assert await watcher.until(6) == [(news, run_id) for news in (*LIFE, REOPENED, ENDED)]
            first = watcher.notices[0]
            assert (first.workflow_id, first.type, first.task_queue) == ("w", "t", "q")
            assert [notice.reason for notice in watcher.notices] == ["", "lunch", "", "mended"]
        run = await service.get(run_id)
        assert near.notices == far.notices
        assert near.notices[0].time == run.create_time


async def test_who_asks_for_nothing_hears_of_ends(service: Service, replica: Service) -> None:
    """And who asks for starts alone hears of nothing else."""
    async with watching(service, ()) as ends, watching(replica, [STARTED]) as starts, watching(replica) as every:
        ids = [await live(service) for _ in range(3)]
        await every.until(12)
        assert await ends.until(3) == [(ENDED, run_id) for run_id in ids]
        assert await starts.until(3) == [(STARTED, run_id) for run_id in ids]


async def test_two_replicas_tell_of_each_others_runs(service: Service, replica: Service) -> None:
    """Every line once on each, those of one run in the order of its life."""
    async with watching(service) as here, watching(replica) as there:
        ids = await asyncio.gather(*(live(each) for each in (service, replica) * 8))
        for watcher in (here, there):
            await watcher.until(16 * len(LIFE))
            assert {run_id: watcher.of(run_id) for run_id in ids} == dict.fromkeys(ids, LIFE)


async def test_a_watch_of_starts_is_of_its_namespace(service: Service, replica: Service) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    async with watching(service) as mine, watching(replica, namespace="other") as others:
        theirs = await live(service, "other")
        ours = await live(service)
        assert await mine.until(4) == [(news, ours) for news in LIFE]
        assert await others.until(4) == [(news, theirs) for news in LIFE]


async def test_a_watch_goes_on_where_a_message_was_cut(
    service: Service, replica: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cursor in the middle of a batch, among its notices too: none is missed or doubled, on whichever replica."""
    monkeypatch.setattr(watch_streams, "_MESSAGE_NEWS", 3)
    async with watching(service) as watcher:
        cursor = watcher.cursor
    requests = [runs_pb2.StartRunRequest(type="t") for _ in range(40)]
    batch = runs_pb2.BatchStartRunsRequest(requests=requests)
    results = (await service.runs.BatchStartRuns(batch, timeout=TIMEOUT)).results
    ids = [result.started.run_id for result in results]
    await asyncio.gather(*(service.end(run_id) for run_id in ids))
    heard: list[Line] = []
    place = 0
    while len(heard) < 80:
        place += 1
        async with watching((service, replica)[place % 2], cursor=cursor) as watcher:
            await watcher.until(1)
        heard += watcher.heard
        cursor = watcher.cursor
    assert sorted(heard) == sorted((news, run_id) for run_id in ids for news in (STARTED, ENDED))
    assert all(heard.index((STARTED, run_id)) < heard.index((ENDED, run_id)) for run_id in ids)


def test_a_place_in_a_batch_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch has notices and ends, each is told once, however its messages are cut."""
    monkeypatch.setattr(watch_streams, "_MESSAGE_NEWS", 1)
    ids = [uuid7() for _ in range(3)]
    start = [Notice(RunNews.STARTED, CREATED, "", 1, run_id, "w", "t", "q") for run_id in ids]
    end = [End(key, 1, run_id, "w", Phase.COMPLETED, "", None, None) for key, run_id in enumerate(ids)]
    batch = BatchNews(1, 1, [0, 1, 2], [7, 8, 9])
    found = Found(dict(enumerate(end)), dict(zip((7, 8, 9), start, strict=True)))
    watched = Watched(1, End, frozenset(RunNews))
    cursor = Cursor({1: 0}, {})
    told: list[Any] = []
    for _ in range(6):
        stream = Stream(watched, cursor, 10)
        stream.recalled.append(told_of(batch, found, watched))
        told += stream.take()
    assert (told, cursor.positions) == ([*start, *end], {1: 1})
    only_ends = Stream(watched, Cursor({1: 0}, {1: 1}), 10)
    only_ends.recalled.append(told_of(batch, found, Watched(1, End)))
    assert only_ends.take() == end[1:2]


async def test_a_cursor_of_ends_goes_on_with_starts(service: Service) -> None:
    """A cursor is a place, whatever its stream told of. A message ends before a notice that follows an end."""
    async with watching(service, ()) as ends:
        first = await live(service)
        await ends.until(1)
    later = [await live(service) for _ in range(3)]
    async with watching(service, cursor=ends.cursor) as every:
        assert await every.until(12) == [(news, run_id) for run_id in later for news in LIFE]
    async with watching(service, (), cursor=ends.cursor) as again:
        assert await again.until(3) == [(ENDED, run_id) for run_id in later]
    assert first not in {run_id for _, run_id in every.heard + again.heard}


async def test_what_is_gone_is_left_out(service: Service, replica: Service) -> None:
    """Of a run whose history was removed its start and its end are told, of a deleted run nothing."""
    async with watching(service) as watcher:
        cursor = watcher.cursor
    bare = await live(service)
    later = timestamp_pb2.Timestamp()
    later.FromDatetime(service.clock.now() + timedelta(days=1))
    scope = retention_pb2.PruneEventsRequest.SCOPE_ENDED_RUNS
    await service.retention.PruneEvents(retention_pb2.PruneEventsRequest(cutoff=later, scope=scope), timeout=TIMEOUT)
    gone, whole = await live(service), await live(service)
    await service.retention.DeleteRun(retention_pb2.DeleteRunRequest(run_id=gone), timeout=TIMEOUT)
    async with watching(replica, cursor=cursor) as late:
        await late.until(6)
    assert late.heard == [(STARTED, bare), (ENDED, bare)] + [(news, whole) for news in LIFE]


async def test_bad_news_are_refused(service: Service) -> None:
    for news in ([0], [17], [1] * 257):
        request = runs_pb2.WatchRunsRequest()
        request.news.extend(news)  # type: ignore[arg-type]
        assert await refusal(service.runs.WatchRuns(request).read()) == ("INVALID_ARGUMENT", "INVALID_FIELD")
