"""Several committers: what concerns one run is decided by one of them, in the order in which a caller gave it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from uuid import UUID, uuid4

import pytest
from tests.engine.replica import MAIN, Look, Replica, look, new_run, ref, replica

from stepwell_server.engine.change import Change
from stepwell_server.engine.committer.router import _place_of_name
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import RunRef

RUNS, SIGNALS = 24, 5
NAMINGS = ("workflow_id", "run_id", "run_key")


def named(naming: str, started: Started, workflow_id: str) -> RunRef:
    given: dict[str, RunRef] = {
        "workflow_id": RunRef(MAIN, "main", workflow_id=workflow_id),
        "run_id": RunRef(MAIN, "main", run_id=started.run_id),
        "run_key": ref(started),
    }
    return given[naming]


async def signals_of(database: Look) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for row in await database.rows("SELECT run_key, name FROM signals ORDER BY run_key, ordinal"):
        found[row["run_key"]].append(row["name"])
    return found


def deciders(server: Replica) -> dict[int, set[int]]:
    """Which committers have changed each run."""
    found: dict[int, set[int]] = defaultdict(set)
    for committer, _, changes in server.ears.batches:
        for change in changes:
            if isinstance(change, Change) and change.run is not change.original:
                found[change.key].add(committer)
    return found


@pytest.mark.parametrize("committers", [1, 2, 3])
@pytest.mark.parametrize("by_id", [False, True])
async def test_signals_find_the_run_whose_start_was_given_before_them(
    database_url: str, committers: int, by_id: bool
) -> None:
    """A caller that waits for no answer: start and signals arrive together, and are decided as they came."""
    async with replica(database_url, committers=committers) as server, look(database_url) as database:
        starts, signals = [], []
        for number in range(RUNS):
            run_id, name = uuid4(), f"w{number}"
            given = RunRef(MAIN, "main", run_id=run_id) if by_id else RunRef(MAIN, "main", workflow_id=name)
            starts.append(server.submit(StartRun(new_run(run_id=run_id, workflow_id=name))))
            signals += [server.submit(SignalRun(given, f"s{n}", NULL)) for n in range(SIGNALS)]
        assert all(isinstance(answer, Started) for answer in await asyncio.gather(*starts))
        assert all(isinstance(answer, Signalled) for answer in await asyncio.gather(*signals))
        found = await signals_of(database)
        assert list(found.values()) == [[f"s{n}" for n in range(SIGNALS)]] * RUNS
        await database.check()


@pytest.mark.parametrize("naming", NAMINGS)
async def test_an_order_is_kept_on_any_replica(database_url: str, naming: str) -> None:
    """On the one that started the runs and on another, however they are named; each run has one committer on each."""
    async with (
        replica(database_url, committers=2) as one,
        replica(database_url, committers=2) as two,
        look(database_url) as database,
    ):
        runs = [(await one.start(workflow_id=f"w{n}", run_id=uuid4()), f"w{n}") for n in range(RUNS)]
        for server in (two, one, two):
            futures = [
                server.submit(SignalRun(named(naming, started, name), f"{n}", NULL))
                for n in range(SIGNALS)
                for started, name in runs
            ]
            await asyncio.gather(*futures)
        found = await signals_of(database)
        assert [found[started.run_key] for started, _ in runs] == [[f"{n}" for n in range(SIGNALS)] * 3] * RUNS
        for server in (one, two):
            places = deciders(server)
            assert {len(places[started.run_key]) for started, _ in runs} == {1}
            assert len(set().union(*places.values())) == 2
        await database.check()


@pytest.mark.parametrize("naming", NAMINGS)
async def test_a_name_is_free_for_a_start_given_after_the_end(database_url: str, naming: str) -> None:
    """The end goes by the run, the start by its name: both come to the same committer, in their order."""
    async with replica(database_url, committers=2) as server, look(database_url) as database:
        # Only names and keys lead there at once; an id without a start under way must be looked up.
        runs = [(await server.start(workflow_id=f"w{n}"), f"w{n}") for n in range(RUNS)]
        again = []
        for started, name in runs:
            end = server.submit(TerminateRun(named(naming, started, name), "over"))
            if naming == "run_id":
                await end
            again.append(server.submit(StartRun(new_run(workflow_id=name))))
        answers = await asyncio.gather(*again)
        assert all(isinstance(answer, Started) and answer.started for answer in answers)
        assert await database.value("SELECT count(*) FROM closed_runs") == RUNS
        await database.check()


async def test_what_is_handed_over_while_the_server_stops_is_answered(database_url: str) -> None:
    """Whichever committer ends first: a command that is another's is decided by the one that is left."""
    async with replica(database_url, committers=3) as server, look(database_url) as database:
        runs = [await server.start() for _ in range(RUNS)]
        futures = [
            server.submit(SignalRun(RunRef(MAIN, "main", run_id=started.run_id), f"{n}", NULL))
            for n in range(SIGNALS)
            for started in runs
        ]
        await server.committers.stop()
        assert all(isinstance(future.result(), Signalled) for future in futures)
        found = await signals_of(database)
        assert list(found.values()) == [[f"{n}" for n in range(SIGNALS)]] * RUNS


async def test_keys_tell_who_started_their_runs(database_url: str) -> None:
    """Each committer takes those keys of its blocks that lead to it; two blocks are enough for three."""
    async with replica(database_url, committers=3) as server:
        await asyncio.gather(*(server.start() for _ in range(400)))
        numbers = [member.number for member in server.committers.members]
        for run_key, (committer,) in deciders(server).items():
            assert committer == numbers[run_key % 3]


def test_names_lead_to_the_same_place_on_every_replica() -> None:
    """Python's own hash of a text differs from process to process."""
    assert _place_of_name("order-17", None) == 1525286420
    assert _place_of_name("", UUID(int=5)) == 5
