"""Reading what workers need with their tasks: inputs, recorded steps, heartbeat details."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stepwell_server import errors, telemetry
from stepwell_server.dispatch.messages import MOST_BYTES, Assign, RecordedStep
from stepwell_server.model.events import Attributes, payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import input_event_of, unpack_details
from stepwell_server.model.steps import ClosedStep, EndedStep, Kind, Step, result_event
from stepwell_server.model.tasks import AnyGrant, Grant, JobGrant
from stepwell_server.store import batch_reads, job_batches, recall
from stepwell_server.store.faults import Conflict, Lost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

_STEPS_INLINE = 1_000
Inputs = dict[tuple[int, int], Payload]


class Reader:
    """A connection of its own for what is read on the way to workers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    def at_hand(self, grants: Sequence[AnyGrant]) -> list[Assign] | None:
        """The same as `assignments`, if nothing needs to be read for it; else None."""
        return None if any(map(_needs_reading, grants)) else [_assign(grant, {}, {}, {}) for grant in grants]

    async def assignments(self, grants: Sequence[AnyGrant]) -> list[Assign]:
        """The grants with all that their worker needs."""
        wanted = [each for each in grants if each.payload is None]
        beats = [grant.key for grant in grants if grant.activity is not None and grant.token > 1]
        inputs: Inputs = {}
        details: dict[tuple[int, int], Payload] = {}
        steps: dict[int, tuple[list[RecordedStep], bool]] = {}
        replays = [grant for grant in grants if isinstance(grant, Grant) and grant.step is None and not grant.fresh]
        if wanted or beats or replays:
            async with self.connection() as connection:
                inputs = await read_inputs(connection, wanted)
                if beats:
                    for run_key, ordinal, _, payload in await batch_reads.read_heartbeats(connection, beats):
                        details[run_key, ordinal] = payload
                for grant in replays:
                    size = len(_input(grant, inputs).body)
                    steps[grant.run.run_key] = await read_recorded(connection, grant.run.run_key, 0, beside=size)
        return [_assign(grant, inputs, details, steps) for grant in grants]

    async def recorded(self, run_key: int, after: int) -> tuple[list[RecordedStep], bool]:
        """A run's steps after an ordinal, as many as a message holds, and whether there are more."""
        async with self.connection() as connection:
            return await read_recorded(connection, run_key, after)

    async def completed(self, ended: Sequence[EndedStep]) -> list[EndedStep]:
        """Ended steps with the payloads that were not at hand."""
        wanted = [(each.step.run_key, result_event(each.step)) for each in ended if each.payload is None]
        if not wanted:
            return list(ended)
        async with self.connection() as connection:
            found = await read_payloads(connection, wanted)
        return [each if each.payload is not None else _completed(each, found) for each in ended]

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """The connection, for one caller at a time. A lost one is UNAVAILABLE."""
        async with self._lock:
            try:
                yield await self._connected()
            except (Lost, Conflict) as error:
                await self.close()
                raise errors.DatabaseUnavailable from error

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._database.reconnect("reader")
        return self._connection

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            await self._connection.close()


async def read_inputs(connection: Connection, grants: Sequence[AnyGrant]) -> Inputs:
    """The inputs of tasks, by their keys; of one without an input there is none."""
    events = {grant.key: _input_event(grant) for grant in grants if isinstance(grant, Grant)}
    payloads = await read_payloads(connection, list(events.values()))
    inputs = {key: payloads[event][0] for key, event in events.items() if event in payloads}
    jobs = [grant.key for grant in grants if not isinstance(grant, Grant)]
    if jobs:
        found = await job_batches.read_job_inputs(connection, [key for key, _ in jobs])
        inputs |= {key: found[key[0]] for key in jobs if key[0] in found}
    return inputs


def _input_event(grant: Grant) -> tuple[int, int]:
    run = grant.run
    return run.run_key, grant.step.input_event if grant.step is not None else input_event_of(run.details)


async def read_payloads(
    connection: Connection, wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[Payload, Attributes]]:
    """The payloads and attributes of single events."""
    if not wanted:
        return {}
    found = {}
    for event in await recall.read_events(connection, wanted):
        attributes = unpack_attributes(event.attributes)
        payload = payload_of(event.payload_kind, event.payload, attributes)
        found[event.run_key, event.number] = (payload, attributes)
    return found


async def read_recorded(
    connection: Connection, run_key: int, after: int, beside: int = 0
) -> tuple[list[RecordedStep], bool]:
    """A run's steps after an ordinal, in order, as many as one message should hold, and whether there are more.

    A message that holds `beside` bytes already may be left without any.
    """
    open_steps = await recall.page_steps(connection, run_key, after, _STEPS_INLINE + 1)
    closed = await recall.page_closed_steps(connection, run_key, after, _STEPS_INLINE + 1)
    # Ended steps win: a step may end between the two looks.
    by_ordinal: dict[int, Step | ClosedStep] = {step.ordinal: step for step in open_steps}
    by_ordinal.update({step.ordinal: step for step in closed})
    steps = [by_ordinal[ordinal] for ordinal in sorted(by_ordinal)][: _STEPS_INLINE + 1]
    more = len(steps) > _STEPS_INLINE
    steps = steps[:_STEPS_INLINE]
    wanted = [(run_key, result_event(step)) for step in steps if isinstance(step, ClosedStep)]
    payloads = await read_payloads(connection, wanted)
    recorded: list[RecordedStep] = []
    size = beside
    for step in steps:
        entry = _recorded(step, payloads)
        size += len(entry.payload.body)
        if size > MOST_BYTES and (recorded or beside):
            return recorded, True
        recorded.append(entry)
    return recorded, more


def _completed(ended: EndedStep, found: dict[tuple[int, int], tuple[Payload, Attributes]]) -> EndedStep:
    payload, attributes = found.get((ended.step.run_key, result_event(ended.step)), (NULL, Attributes()))
    failure = None if ended.step.kind == Kind.WAIT else attributes.failure
    return EndedStep(ended.step, payload, ended.failure or failure)


def _recorded(step: Step | ClosedStep, payloads: dict[tuple[int, int], tuple[Payload, Attributes]]) -> RecordedStep:
    if isinstance(step, Step):
        return RecordedStep(step, NULL, None)
    payload, attributes = payloads.get((step.run_key, result_event(step)), (NULL, Attributes()))
    failure: Failure | None = None if step.kind == Kind.WAIT else attributes.failure
    return RecordedStep(step, payload, failure)


def _needs_reading(grant: AnyGrant) -> bool:
    if grant.payload is None:
        return True
    if isinstance(grant, JobGrant) or grant.step is not None:
        return grant.token > 1
    return not grant.fresh or was_called(grant)


def was_called(grant: AnyGrant) -> bool:
    """Whether updates may have been left for a run that is to be advanced."""
    if not isinstance(grant, Grant) or grant.step is not None:
        return False
    return grant.run.details is not None and unpack_details(grant.run.details).called


def _input(grant: AnyGrant, inputs: Inputs) -> Payload:
    """A task's input, at hand or read."""
    return grant.payload if grant.payload is not None else inputs.get(grant.key, NULL)


def _assign(
    grant: AnyGrant,
    inputs: Inputs,
    details: dict[tuple[int, int], Payload],
    steps: dict[int, tuple[list[RecordedStep], bool]],
) -> Assign:
    origin, activity = grant.origin, grant.activity
    traceparent = telemetry.claim_context(origin.traceparent, grant.origin_id, *grant.key, grant.token)
    recorded, more = steps.get(grant.key[0], ([], False)) if activity is None else ([], False)
    return Assign(grant, _input(grant, inputs), traceparent, recorded, more, details.get(grant.key))
