"""What a run with one activity costs the database: a few statements and commits a batch, however many runs are in it.

A bound that is broken says which statement is new. Whoever means it to be there raises the bound, and says what for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tests.engine.replica import MAIN, Replica, look, new_run, replica

from stepwell_server.engine.activities import CompleteActivity, NewActivity
from stepwell_server.engine.order import chain
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import End, NewStep, ScopeClaim
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import EMPTY_HASH, Phase, RunRef
from stepwell_server.model.steps import Kind
from stepwell_server.store.connection import Connection

RUNS = 100
# Of each batch, the statements that it may send, and how many rows they may write for a run.
BATCHES: dict[str, tuple[set[str], int]] = {
    "start": ({"find_run_ids", "insert_batch", "insert_run_ids", "insert_runs", "insert_events"}, 3),
    "activity": ({"insert_batch", "update_runs", "insert_steps", "insert_events"}, 3),
    "completion": (
        {
            "insert_batch",
            "update_runs",
            "delete_steps",
            "insert_closed_steps",
            "insert_events",
        },
        4,
    ),
    "end": ({"insert_batch", "delete_runs", "insert_closed_runs", "insert_events"}, 3),
}


class Sent:
    """The statements that connections send, and the rows that they write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[str] = []
        self.rows: Counter[str] = Counter()
        fetch, write, insert = Connection.fetch, Connection.write, Connection.insert

        async def fetched(connection: Connection, statement: Any, *arguments: Any) -> Any:
            self.statements.append(statement.name)
            return await fetch(connection, statement, *arguments)

        async def written(connection: Connection, statement: Any, columns: Any) -> int:
            self.statements.append(statement.name)
            count = await write(connection, statement, columns)
            self.rows[statement.name] += count
            return count

        async def inserted(connection: Connection, statement: Any, rows: Iterable[Any]) -> None:
            given = list(rows)
            self.statements.append(statement.name)
            self.rows[statement.name] += len(given)
            await insert(connection, statement, given)

        monkeypatch.setattr(Connection, "fetch", fetched)
        monkeypatch.setattr(Connection, "write", written)
        monkeypatch.setattr(Connection, "insert", inserted)


def ref(key: int) -> RunRef:
    return RunRef(MAIN, "main", key)


def asked(server: Replica, key: int) -> ProgressRun:
    """The run wants an activity, and waits for it in its worker's memory."""
    step = NewStep("", "act", 0, "", b"", Kind.ACTIVITY, NewActivity(type="act"))
    claims = [ScopeClaim("", 0, EMPTY_HASH, closed=False)]
    return ProgressRun(ref(key), server.session, 1, claims, [step], [], waiting=True, end=None, resident=True)


def ended(server: Replica, key: int) -> ProgressRun:
    claims = [ScopeClaim("", 1, chain(EMPTY_HASH, Kind.ACTIVITY, "act", b""), closed=False)]
    end = End(Phase.COMPLETED)
    return ProgressRun(ref(key), server.session, 1, claims, [], [], waiting=False, end=end, resident=True)


def orders_of(server: Replica, keys: list[int], count: int) -> dict[str, Callable[[], list[Any]]]:
    """What happens to so many runs, batch by batch; their keys are known after the first."""
    return {
        "start": lambda: [StartRun(new_run()) for _ in range(count)],
        "activity": lambda: [asked(server, key) for key in keys],
        "completion": lambda: [CompleteActivity(ref(key), 1, server.session, 1, NULL) for key in keys],
        "end": lambda: [ended(server, key) for key in keys],
    }


async def test_a_run_with_one_activity_keeps_to_its_statements(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred at a time: four batches, each of a fixed set of statements, and thirteen rows a run."""
    async with replica(database_url) as server, look(database_url) as database:
        server.ears.session = server.session
        await server.start()  # takes the block of keys
        sent, counters = Sent(monkeypatch), server.database.counters
        keys: list[int] = []
        steps = orders_of(server, keys, RUNS)
        for name, orders in steps.items():
            sent.statements.clear()
            sent.rows.clear()
            before = counters.statements, counters.commits
            answers = await asyncio.gather(*(server.submit(order) for order in orders()))
            keys += [answer.run_key for answer in answers if isinstance(answer, Started)]
            may, rows = BATCHES[name]
            assert set(sent.statements) <= may, name
            assert len(sent.statements) == len(set(sent.statements)), f"{name}: twice in a batch"
            assert sum(sent.rows.values()) <= rows * RUNS + 1, name  # with the batch's own
            # Those, and BEGIN and COMMIT.
            assert counters.statements - before[0] <= len(may) + 2, name
            assert counters.commits - before[1] == 1, name
        assert await database.value("SELECT count(*) FROM closed_runs WHERE phase = $1", Phase.COMPLETED) == RUNS
        assert await database.value("SELECT count(*) FROM tasks") == 0
        await database.check()


async def test_what_a_run_alone_writes_goes_in_one_statement_a_batch(database_url: str) -> None:
    """And nothing else, not even BEGIN and COMMIT: who holds the run is here, so the run is kept."""
    async with replica(database_url) as server:
        server.ears.session = server.session
        await server.start()  # takes the block of keys
        counters, keys = server.database.counters, list[int]()
        for name, orders in orders_of(server, keys, 1).items():
            before, commits = counters.statements, counters.commits
            (answer,) = [await server.submit(order) for order in orders()]
            keys += [answer.run_key] if isinstance(answer, Started) else []
            assert (counters.statements - before, counters.commits - commits) == (1, 1), name
