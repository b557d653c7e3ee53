"""Runs to be forked: their records, and of the steps that are chosen what they came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, text

from stepwell_server.model.payloads import NULL
from stepwell_server.model.steps import ClosedStep, Step, result_event
from stepwell_server.store import runs, steps
from stepwell_server.store.schema import CLOSED_STEPS, STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_server.model.runs import RunRef
    from stepwell_server.store.database import Database
    from stepwell_server.store.runs import SeenRun, WholeRun
    from stepwell_server.store.steps import Told

Record = list[Step | ClosedStep]


async def read(
    database: Database, ref: RunRef, choose: Callable[[SeenRun, Record], Sequence[ClosedStep]]
) -> tuple[WholeRun, list[tuple[ClosedStep, Told]]]:
    """The run as it was at one moment, and the chosen steps with their payloads. Refuses with RUN_NOT_FOUND.

    Walks steps_pkey, and the run's part of one partition's primary key of closed_steps and of events.
    """
    async with database.pool.begin() as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        run = await runs.find_in(connection, ref)
        whole = await runs.whole_in(connection, run)
        opened = await connection.execute(select(STEPS).where(STEPS.c.run_key == run.run_key))
        ended = await connection.execute(select(CLOSED_STEPS).where(CLOSED_STEPS.c.run_key == run.run_key))
        record: Record = [*(Step(*row) for row in opened), *(ClosedStep(*row) for row in ended)]
        chosen = choose(run, sorted(record, key=lambda step: step.ordinal))
        told = await steps.told_by(connection, run.run_key, {result_event(step) for step in chosen})
    return whole, [(step, told.get(result_event(step), (NULL, None))) for step in chosen]
