"""What flow control costs: nothing where nobody asks for it, a statement a batch where somebody does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from tests.service import Holder, serving
from tests.stream.calls import Caller
from tests.stream.kit import replica
from tests.stream.test_aging import update

from stepwell.v1 import concurrency_pb2
from stepwell.v1.task_queues_pb2 import Fairness, RateLimit
from stepwell_server.model.runs import Phase
from stepwell_server.store.connection import Connection
from stepwell_server.store.statements import Statement
from stepwell_server.store.writing import Change, Insertion

LIMIT = concurrency_pb2.Concurrency(key="k")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that are given from now on, in their order."""
    names: list[str] = []
    fetch, write, insert = Connection.fetch, Connection.write, Connection.insert
    write_together, write_alone = Connection.write_together, Connection.write_alone

    async def fetched(connection: Connection, statement: Statement, *arguments: object) -> Any:
        names.append(statement.name)
        return await fetch(connection, statement, *arguments)

    async def written(connection: Connection, statement: Statement, arguments: Sequence[Sequence[object]]) -> int:
        names.append(statement.name)
        return await write(connection, statement, arguments)

    async def inserted(connection: Connection, statement: Statement, rows: Iterable[tuple[object, ...]]) -> None:
        names.append(statement.name)
        await insert(connection, statement, rows)

    async def alone(connection: Connection, changes: Sequence[Change], insertions: Sequence[Insertion]) -> None:
        names.extend(change.statement.name for change in changes)
        names.extend(each.statement.name for each in insertions)
        await write_alone(connection, changes, insertions)

    async def together(connection: Connection, changes: Sequence[Change], insertions: Sequence[Insertion]) -> list[int]:
        names.extend(change.statement.name for change in changes)
        names.extend(each.statement.name for each in insertions)
        return await write_together(connection, changes, insertions)

    monkeypatch.setattr(Connection, "write_together", together)
    monkeypatch.setattr(Connection, "write_alone", alone)
    monkeypatch.setattr(Connection, "insert", inserted)
    monkeypatch.setattr(Connection, "fetch", fetched)
    monkeypatch.setattr(Connection, "write", written)
    return names


async def test_a_run_without_a_limit_costs_nothing(database_url: str, asked: list[str]) -> None:
    """From its start to its end nothing is asked, looked up or written for the sake of limits."""
    async with serving(database_url) as service:
        await service.begin(task_queue="warm")
        asked.clear()
        await service.begin(task_queue="q")
        started = set(asked)
        await (await Holder.of(service, "q")).end(Phase.COMPLETED)
        assert "insert_runs" in started
        assert "insert_closed_runs" in asked
        assert [name for name in asked if "concurrency" in name or "line" in name] == []
        assert [name for name in asked if "bucket" in name or "limited" in name or "settings" in name] == []
        asked.clear()
        await service.begin(task_queue="q", concurrency=LIMIT)
        # A row beside its own, and no task.
        assert sorted(asked) == sorted((started | {"write_concurrency_slots"}) - {"insert_tasks"})


async def test_turns_without_a_limit_of_keys_cost_no_bucket(database_url: str, asked: list[str]) -> None:
    """And with one, all keys of a claim cost a lock of their queue, a look and a statement that writes them."""
    async with replica(database_url) as one:
        await update(one, "fairness", fairness=Fairness())
        caller = await Caller.of(one)
        for key in "abc":
            await one.start_job(fairness_key=key)
        asked.clear()
        assert len(await caller.claim(wait=0, max_tasks=3)) == 3
        assert {"find_fairness_keys", "claim_fair_tasks"} <= set(asked)
        assert not {"lock_queue_settings", "find_limited_keys", "write_key_buckets"} & set(asked)
        await update(one, "key_rate_limit", key_rate_limit=RateLimit(per_second=100))
        for key in "abc":
            await one.start_job(fairness_key=key)
        asked.clear()
        assert len(await caller.claim(wait=0, max_tasks=3)) == 3
        ours = ("lock_queue_settings", "find_limited_keys", "claim_fair_tasks", "write_key_buckets")
        # The first claim of the two is for runs, of which none waits.
        assert [asked.count(name) for name in ours] == [2, 2, 1, 1]
        assert "find_fairness_keys" not in asked
