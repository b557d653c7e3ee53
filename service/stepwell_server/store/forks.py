"""Runs to be forked: their records, and of the steps that are chosen what they came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace
from sqlalchemy import select, text

from stepwell_server.model.events import TOPIC_EVENT, TOPIC_NAME, unpack_attributes
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import unpack_details
from stepwell_server.model.steps import ClosedStep, Step, is_on_topic, result_event
from stepwell_server.model.topics import TopicPosition
from stepwell_server.store import runs, steps
from stepwell_server.store.schema import CLOSED_STEPS, EVENTS, SIGNALS, STEPS, TOPIC_POSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.runs import RunRef
    from stepwell_server.store.database import Database
    from stepwell_server.store.runs import SeenRun, WholeRun
    from stepwell_server.store.steps import Told

Record = list[Step | ClosedStep]


class Source(NamedTuple):
    """The run as it was at one moment, the chosen steps with their payloads, and what it had had of topics by then."""

    whole: WholeRun
    steps: list[tuple[ClosedStep, Told]]
    had: list[TopicPosition]


async def read(database: Database, ref: RunRef, choose: Callable[[SeenRun, Record], Sequence[ClosedStep]]) -> Source:
    """The run, and what a fork begins with. Refuses with RUN_NOT_FOUND.

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
        kept = {step.ordinal for step in chosen}
        had = await _had(connection, run, [step for step in record if step.ordinal not in kept])
    return Source(whole, [(step, told.get(result_event(step), (NULL, None))) for step in chosen], had)


async def _had(connection: AsyncConnection, run: SeenRun, gone: Collection[Step | ClosedStep]) -> list[TopicPosition]:
    """What the run, with those that it continues, had had of topics before it got what is to be done anew.

    That is what steps got that are gone, and what a rewind gave back and nobody has taken again. Walks
    topic_positions_pkey, signals_pkey, and the run's part of one partition's events_pkey.
    """
    chain_key = unpack_details(run.details).first_key or run.run_key
    known = await connection.execute(select(TOPIC_POSITIONS).where(TOPIC_POSITIONS.c.chain_key == chain_key))
    positions = [TopicPosition(*row) for row in known]
    numbers = {result_event(step) for step in gone if isinstance(step, ClosedStep) and is_on_topic(step)}
    if not positions:
        return positions
    kept = select(SIGNALS.c.event).where(SIGNALS.c.run_key == run.run_key, ~SIGNALS.c.consumed)
    numbers |= set(await connection.scalars(kept))
    if not numbers:
        return positions
    first: dict[str, int] = {}
    query = select(EVENTS.c.attributes).where(EVENTS.c.run_key == run.run_key, EVENTS.c.number.in_(numbers))
    for packed in await connection.scalars(query):
        facts = unpack_attributes(packed).facts or {}
        if TOPIC_EVENT in facts:
            topic, number = facts[TOPIC_NAME], int(facts[TOPIC_EVENT])
            first[topic] = min(number, first.get(topic, number))
    return [replace(each, number=min(each.number, first.get(each.topic, each.number + 1) - 1)) for each in positions]
