"""Retention of runs: what is over goes or is archived, namespace by namespace, in slices; open runs never do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from tests.loops.rig import Rig, rigged
from tests.loops.test_jobs import partitions_of

from stepwell_server.engine.mending import RetryRun
from stepwell_server.engine.runs import Steered, TerminateRun
from stepwell_server.loops import retention
from stepwell_server.loops.partitions import Partitions
from stepwell_server.loops.retention import RunRetention
from stepwell_server.model.runs import RunRef
from stepwell_server.store import object_stores, removal
from stepwell_server.store.faults import Rejected
from stepwell_server.store.namespaces import Namespaces

DAY = timedelta(days=1)


@pytest_asyncio.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    async with rigged(database_url) as made:
        await made.sql.execute("INSERT INTO namespaces (name, create_time) VALUES ('kept', now())")
        await set_retention(made, 7 * DAY)
        yield made


async def set_retention(rig: Rig, retention: timedelta | None, archive_url: str = "", name: str = "main") -> None:
    changes: dict[str, Any] = {
        "retention_seconds": retention.total_seconds() if retention is not None else None,
        "archive_url": archive_url,
    }
    await Namespaces(rig.database).update(name, changes, rig.clock.now())


def loop_of(rig: Rig, folder: Path | None = None) -> RunRetention:
    return RunRetention(rig.database, Namespaces(rig.database), rig.connection, rig.clock, 60.0, folder)


async def ended(rig: Rig, days: float, **fields: Any) -> int:
    """A run that ended so many days ago."""
    key = await rig.start(**fields)
    ref = RunRef(None, "", run_key=key)
    await rig.committers.do(Steered, TerminateRun(ref, ""))
    await rig.sql.execute(
        "UPDATE closed_runs SET end_time = end_time - $2::interval WHERE run_key = $1", key, DAY * days
    )
    return key


async def keys(rig: Rig, table: str) -> set[int]:
    return {row[0] for row in await rig.sql.fetch(f"SELECT DISTINCT run_key FROM {table}")}  # noqa: S608 - ours


async def test_what_is_over_goes_and_nothing_else(rig: Rig) -> None:
    """Of a namespace with a retention; another keeps its runs for ever."""
    old, young, opened = await ended(rig, 8), await ended(rig, 6), await rig.start()
    again = await ended(rig, 30)
    await rig.committers.do(object, RetryRun(RunRef(None, "", run_key=again), (), ""))
    other = await ended(rig, 1000, namespace_id=2, namespace="kept")
    assert await loop_of(rig).run_once() == 1
    assert await keys(rig, "run_ids") == {young, opened, again, other}
    assert old not in await keys(rig, "events")
    await set_retention(rig, None)
    await set_retention(rig, DAY, name="kept")
    assert await loop_of(rig).run_once() == 1
    assert await keys(rig, "run_ids") == {young, opened, again}


async def test_a_round_goes_on_where_the_last_one_stopped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(retention, "_SLICES", 1)
    for _ in range(5):
        await ended(rig, 8)
    loop = loop_of(rig)
    assert [await loop.run_once() for _ in range(4)] == [2, 2, 1, 0]
    assert await keys(rig, "closed_runs") == set()


async def test_who_leads_no_more_stops(rig: Rig) -> None:
    await ended(rig, 8)
    loop = loop_of(rig)
    loop.may_run = lambda: False
    assert await loop.run_once() == 0
    assert await keys(rig, "closed_runs")


async def test_with_an_archive_runs_are_archived_and_stay(rig: Rig, tmp_path: Path) -> None:
    await set_retention(rig, DAY, f"file://{tmp_path}")
    old, young = await ended(rig, 2), await ended(rig, 0)
    loop = loop_of(rig, tmp_path)
    assert [await loop.run_once() for _ in range(2)] == [1, 0]
    assert await keys(rig, "closed_runs") == {old, young}
    assert await keys(rig, "events") == {young}
    assert len(list((tmp_path / "main").iterdir())) == 1


async def test_an_archive_that_fails_deletes_nothing(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, tried again, and does not keep other namespaces waiting."""
    (tmp_path / "file").touch()
    await set_retention(rig, DAY, f"file://{tmp_path}/file")
    await set_retention(rig, DAY, name="kept")
    old = await ended(rig, 2)
    await ended(rig, 2, namespace_id=2, namespace="kept")
    loop = loop_of(rig, tmp_path)
    with capture_logs() as logs:
        assert await loop.run_once() == 1
    assert [entry["namespace"] for entry in logs if entry["log_level"] == "warning"] == ["main"]
    assert await keys(rig, "events") == {old}
    (tmp_path / "file").unlink()
    assert await loop.run_once() == 1
    assert await keys(rig, "events") == set()


@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_crash_around_the_write_loses_nothing(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before the object is there, and between it and the purge; the next round writes it, again."""
    await set_retention(rig, DAY, f"file://{tmp_path}")
    key, put = await ended(rig, 2), object_stores.put

    async def crash(*args: Any) -> str:
        if step == "after":
            await put(*args)
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(object_stores, "put", crash)
        with pytest.raises(asyncio.CancelledError):
            await loop_of(rig, tmp_path).run_once()
    assert await keys(rig, "events") == {key}
    assert await loop_of(rig, tmp_path).run_once() == 1
    (written,) = (tmp_path / "main").iterdir()
    assert b"RunTerminated" in written.read_bytes()


async def test_emptied_partitions_of_old_ranges_are_dropped(rig: Rig) -> None:
    """Those of history, ended steps and ended runs; one that still holds something stays."""
    await ended(rig, 8)
    await rig.sql.execute("SELECT setval('run_key_blocks', 25000)")
    await Partitions(rig.connection, 60.0).run_once()
    loop = loop_of(rig)
    await set_retention(rig, None)
    await loop.run_once()
    assert "events_p1" in await partitions_of(rig, "events")
    await set_retention(rig, DAY)
    assert await loop.run_once() == 1
    for table in ("closed_runs", "closed_steps", "events"):
        assert await partitions_of(rig, table) == [f"{table}_p3", f"{table}_p4", f"{table}_rest"]


async def test_what_goes_wrong_in_the_pool_is_said_in_the_words_of_the_house(rig: Rig) -> None:
    """So that a round that fails is told in a line, and is no end of all rounds."""
    await rig.sql.execute("ALTER TABLE namespaces RENAME TO elsewhere")
    with pytest.raises(Rejected):
        await loop_of(rig).run_once()
    await rig.sql.execute("ALTER TABLE elsewhere RENAME TO namespaces")
    assert await loop_of(rig).run_once() == 0
