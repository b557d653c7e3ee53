"""Commands that the database will not take, in batches of hundreds: each hurts only its caller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.engine.replica import MAIN, look, new_run, replica

from stepwell_server import refusals
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import NewStep, NewTimer, ScopeClaim
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import EMPTY_HASH, RunRef
from stepwell_server.model.steps import Kind
from stepwell_server.store.faults import Rejected

POISON = {
    "a lone surrogate": SignalRun(RunRef(MAIN, "main", workflow_id="w"), "\ud800", NULL),
    "a NUL": SignalRun(RunRef(MAIN, "main", workflow_id="w"), "\0", NULL),
    "a name that cannot be looked up": SignalRun(RunRef(MAIN, "main", workflow_id="\ud800"), "s", NULL),
    "a start out of range": StartRun(new_run(priority=2**20)),
    "a start with a lone surrogate": StartRun(new_run(type="\ud800")),
    "a date beyond the calendar": StartRun(new_run(timeout_seconds=1e12)),
}


@pytest.mark.parametrize("poison", POISON)
async def test_a_poisoned_command_hurts_only_its_caller(database_url: str, poison: str) -> None:
    """In a batch of hundreds one is refused by the database: it hears INTERNAL, the others are recorded once."""
    async with replica(database_url) as server, look(database_url) as database:
        await server.start(workflow_id="w")
        futures = [server.submit(StartRun(new_run())) for _ in range(150)]
        futures.append(server.submit(POISON[poison]))
        futures += [server.submit(StartRun(new_run())) for _ in range(150)]
        answers = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)
        assert [place for place, answer in enumerate(answers) if isinstance(answer, refusals.Internal)] == [150]
        assert len({answer.run_key for answer in answers if isinstance(answer, Started)}) == 300
        assert await database.value("SELECT count(*) FROM runs") == 301
        await database.check()


async def test_a_row_that_is_there_already_is_poison_not_conflict(database_url: str) -> None:
    """A step whose identity an open one bears can never be written: it alone fails, at once and not after retries."""
    async with replica(database_url) as server, look(database_url) as database:
        await server.start()
        (grant,) = await server.claim()

        def timer(scope: str) -> ProgressRun:
            step = NewStep(scope, "t", 0, "", b"", Kind.TIMER, NewTimer(60))
            claims = [ScopeClaim(scope, 0, EMPTY_HASH, closed=False)]
            named = RunRef(MAIN, "main", grant.run.run_key)
            return ProgressRun(named, grant.session_id, 1, claims, [step], [], waiting=False, end=None, resident=True)

        await server.do(timer("1"))
        await database.raw.execute("DELETE FROM scopes")
        causes: set[type[Exception]] = set()
        halve = server.committer._halve

        async def noted(entries: Any, cause: Exception) -> None:
            causes.add(type(cause))
            await halve(entries, cause)

        server.committer._halve = noted
        futures = [server.submit(StartRun(new_run())) for _ in range(100)]
        bad = server.submit(timer("1"))
        with pytest.raises(refusals.Internal):
            await bad
        assert causes == {Rejected}
        assert len(await asyncio.gather(*futures)) == 100
