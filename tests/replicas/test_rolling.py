"""Replicas are replaced one after the other while there is work: nothing is lost, and nobody notices but by a pause."""

from __future__ import annotations

from collections import Counter

import asyncpg
import pytest
from tests.chaos.invariants import check
from tests.chaos.job_invariants import check_jobs
from tests.chaos.kit import Stage
from tests.replicas.kit import Balancer, Callers, Fleet, Noticed, calling, workers

REPLICAS = 3


async def judged(scene: Stage, noticed: Noticed) -> Counter[str]:
    """Nobody saw an error; all that was acknowledged has ended, each step recorded once, each effect explained."""
    assert noticed.errors == []
    done = scene.done()
    seen = await check(scene.database_url, [line for line in done if line["kind"] != "job"], noticed.run_ids)
    return seen + await check_jobs(scene.database_url, done, noticed.job_ids)


async def steps_of(scene: Stage) -> int:
    connection = await asyncpg.connect(scene.database_url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM stepwell.closed_steps"))
    finally:
        await connection.close()


def interruptions(seen: Counter[str]) -> int:
    """Leases that were lost by waiting for a session's end."""
    return seen["run interrupted"] + seen["activity interrupted"]


async def told(scene: Stage, title: str, noticed: Noticed, seen: Counter[str], ends: list[float]) -> None:
    rows = {
        "runs": len(noticed.run_ids) * 2,  # each has a child
        "jobs": len(noticed.job_ids),
        "steps recorded": await steps_of(scene),
        "errors seen by callers": len(noticed.errors),
        "calls repeated by the client": noticed.repeats,
        "leases lost": interruptions(seen),
        "tasks returned unbegun": seen["run returned"] + seen["activity returned"] + seen["unbegun"],
        "longest call, s": round(noticed.longest_call, 2),
        "longest start to end, s": round(noticed.longest_run, 2),
        "longest orderly end of a replica, s": round(max(ends, default=0.0), 2),
    }
    print(f"\n{title}", *(f"{name:<40}{value:>10}" for name, value in rows.items()), sep="\n")


async def roll(scene: Stage, callers: Callers, fleet: Fleet, rounds: int, between: int) -> list[float]:
    """Every replica is replaced, so many times around; answers how long each took to end."""
    ends = []
    for _ in range(rounds):
        for place in range(REPLICAS):
            await callers.more(between)
            ends.append(await fleet.restart(place))
    await callers.more(between)
    return ends


async def rolled(
    scene: Stage, monkeypatch: pytest.MonkeyPatch, *, rounds: int, each: int, between: int, kills: int
) -> None:
    fleet = Fleet(scene, REPLICAS)
    await fleet.start()
    async with Balancer(fleet.ports) as balancer:
        ways = (fleet.address, balancer.address)
        working = await workers(scene, *ways)
        async with calling(monkeypatch, ways, each) as callers:
            ends = await roll(scene, callers, fleet, rounds, between)
            await callers.end()
            seen = await judged(scene, callers.noticed)
            await told(scene, f"{len(ends)} replicas replaced in order", callers.noticed, seen, ends)
            assert interruptions(seen) == 0
            assert not any("the session is over" in process.log.read_text() for process in working)
        async with calling(monkeypatch, ways, each) as callers:
            for place in range(kills):
                await callers.more(between)
                await fleet.kill(place)
                await callers.more(between)
                if place + 1 < kills:
                    await fleet.begin(place)
            await callers.end()
            since = await judged(scene, callers.noticed) - seen
            await told(scene, f"{kills} killed", callers.noticed, since, [])


async def test_a_rolling_restart_under_load(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three replicas, each replaced once, and one killed after that; callers and workers by two kinds of address."""
    await rolled(scene, monkeypatch, rounds=1, each=4, between=6, kills=1)


@pytest.mark.long
@pytest.mark.timeout(580)
async def test_rolling_restarts_again_and_again(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await rolled(scene, monkeypatch, rounds=3, each=10, between=60, kills=3)
