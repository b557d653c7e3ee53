"""Reading steps of driven runs: one by its name, those that are done by their ends, and states.

Activities and timers of theirs are known by number, and no steps in this sense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, literal, select, union_all

from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState
from stepwell_server.store.schema import CLOSED_STEPS, STEPS
from stepwell_server.store.steps import CLOSED_COLUMNS, SeenStep, StepPage, WholeStep, open_columns, pick, whole

if TYPE_CHECKING:
    from stepwell_server.store.database import Database

Identity = tuple[str, str, int, str]


async def read(database: Database, run_key: int, identity: Identity) -> WholeStep | None:
    """A step with its payloads, or None. Walks steps_identity_idx, and one partition's primary key."""
    either = union_all(
        open_columns().where(*_named(STEPS, run_key, identity), STEPS.c.ordinal > 0),
        select(*CLOSED_COLUMNS).where(*_named(CLOSED_STEPS, run_key, identity)),
    )
    async with database.pool.begin() as connection:
        rows = [SeenStep(*row) for row in await connection.execute(either)]
        return (await whole(connection, run_key, rows[:1]))[0] if rows else None


async def read_payloads(database: Database, step: Step | ClosedStep) -> WholeStep:
    """A step as a decision left it, with its payloads, which never change."""
    async with database.pool.begin() as connection:
        return (await whole(connection, step.run_key, [_seen(step)]))[0]


async def completed(database: Database, run_key: int, *, after: int, most: int, most_bytes: int) -> StepPage:
    """Completed steps of a run in the order of their ends, after an event."""
    query = (
        select(*CLOSED_COLUMNS)
        .where(
            CLOSED_STEPS.c.run_key == run_key,
            CLOSED_STEPS.c.state == StepState.COMPLETED,
            CLOSED_STEPS.c.kind == Kind.LOCAL,
            CLOSED_STEPS.c.end_event > after,
        )
        .order_by(CLOSED_STEPS.c.end_event)
        .limit(most + 1)
    )
    async with database.pool.begin() as connection:
        steps = [SeenStep(*row) for row in await connection.execute(query)]
        return await pick(connection, run_key, steps, most, most_bytes)


async def claimed(database: Database, run_key: int, after: int, most: int) -> list[SeenStep]:
    """Steps of a run that somebody has, after an ordinal. Walks steps_pkey."""
    query = (
        open_columns()
        .where(
            STEPS.c.run_key == run_key,
            STEPS.c.ordinal > after,
            STEPS.c.kind == Kind.LOCAL,
            STEPS.c.owner_id != literal(""),
        )
        .order_by(STEPS.c.ordinal)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return [SeenStep(*row) for row in await connection.execute(query)]


async def states(database: Database, run_key: int, after: int, most: int) -> list[tuple[int, str, int]]:
    """Ordinals, whole names and states of a run's steps, after an ordinal."""
    parts = [
        select(table.c.ordinal, table.c.name, table.c.key, table.c.state)
        .where(table.c.run_key == run_key, table.c.ordinal > after, table.c.kind == Kind.LOCAL)
        .order_by(table.c.ordinal)
        .limit(most)
        .subquery()
        for table in (STEPS, CLOSED_STEPS)
    ]
    merged = union_all(*(select(part) for part in parts)).subquery()
    query = select(merged).order_by(merged.c.ordinal).limit(most)
    async with database.pool.begin() as connection:
        return [(row.ordinal, row.key or row.name, row.state) for row in await connection.execute(query)]


def _named(table: Table, run_key: int, identity: Identity) -> list[Any]:
    values = (run_key, *identity)
    names = ("run_key", "scope", "name", "occurrence", "key")
    return [table.c[name] == literal(value, table.c[name].type) for name, value in zip(names, values, strict=True)]


def _seen(step: Step | ClosedStep) -> SeenStep:
    fields: dict[str, Any] = {name: getattr(step, name, None) for name in SeenStep.__struct_fields__}
    if isinstance(step, Step):
        fields |= {"end_event": 0}
    return SeenStep(**{**fields, "owner_id": fields["owner_id"] or ""})
