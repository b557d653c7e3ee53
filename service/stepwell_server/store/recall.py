"""Reading on dedicated connections what workers need with their tasks, and what loops look for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import astuple

from stepwell_server.model.events import Event
from stepwell_server.model.jobs import JOB_ORDINAL
from stepwell_server.model.payloads import pack_payload
from stepwell_server.model.runs import Run
from stepwell_server.model.steps import ClosedStep, Step
from stepwell_server.model.workers import Hello, Session, listed_of, pack_hello
from stepwell_server.store.columns import pairs
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.model.payloads import Payload
    from stepwell_server.store.connection import Connection

STEPS, EVENTS, SESSIONS, RUNS = load("steps"), load("events"), load("sessions"), load("runs")
JOBS = load("jobs")
Beat = tuple[int, int, int, "UUID", "datetime", "Payload | None"]
Lease = tuple[int, int, int, int]  # run or job key, ordinal (0: the run, JOB_ORDINAL: a job), token, namespace


async def read_events(connection: Connection, wanted: Sequence[tuple[int, int]]) -> list[Event]:
    """Single events by run and number."""
    return [Event(*row) for row in await connection.fetch(EVENTS["read_events"], *pairs(wanted))]


async def page_steps(connection: Connection, run_key: int, after: int, most: int) -> list[Step]:
    """Open steps of a run after an ordinal."""
    return [Step(*row) for row in await connection.fetch(STEPS["page_steps"], run_key, after, most)]


async def page_closed_steps(connection: Connection, run_key: int, after: int, most: int) -> list[ClosedStep]:
    """Ended steps of a run after an ordinal."""
    return [ClosedStep(*row) for row in await connection.fetch(STEPS["page_closed_steps"], run_key, after, most)]


async def insert_session(connection: Connection, session: Session) -> None:
    """Makes a session known."""
    await connection.fetch(SESSIONS["insert_session"], *astuple(session))


async def resume_session(  # noqa: PLR0917 - the statement's parameters
    connection: Connection,
    session_id: UUID,
    namespace_id: int,
    hello: Hello,
    expire_time: datetime,
    owner: str | None = None,
) -> bool:
    """Prolongs a session of that owner's (None: of anybody's) that has not expired; False if there is none."""
    told = pack_hello(hello), expire_time, hello.worker_id, *listed_of(hello)
    return bool(await connection.fetch(SESSIONS["resume_session"], session_id, namespace_id, *told, owner))


async def read_session(connection: Connection, session_id: UUID) -> Session | None:
    """A session, or None."""
    rows = await connection.fetch(SESSIONS["read_session"], session_id)
    return Session(*rows[0]) if rows else None


async def extend_sessions(connection: Connection, ids: Sequence[UUID], expire_time: datetime) -> set[UUID]:
    """Prolongs sessions and answers those that are there."""
    rows = await connection.fetch(SESSIONS["extend_sessions"], ids, expire_time)
    return {row[0] for row in rows}


async def delete_sessions(connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Forgets sessions and answers those that were there."""
    return {row[0] for row in await connection.fetch(SESSIONS["delete_sessions"], ids)}


async def leases_of(connection: Connection, session_id: UUID) -> list[Lease]:
    """All that a session holds."""
    runs = await connection.fetch(RUNS["read_runs_of_sessions"], [session_id], 100_000)
    steps = await connection.fetch(STEPS["read_steps_of_sessions"], [session_id], 100_000)
    jobs = await connection.fetch(JOBS["read_jobs_of_sessions"], [session_id], 100_000)
    held: list[Lease] = [(row["run_key"], 0, row["grants"], row["namespace_id"]) for row in runs]
    held += [(row["run_key"], row["ordinal"], row["grants"], row["namespace_id"]) for row in steps]
    return held + [(row["job_key"], JOB_ORDINAL, row["grants"], row["namespace_id"]) for row in jobs]


async def leases_of_all(connection: Connection, ids: Sequence[UUID]) -> list[tuple[UUID, tuple[int, int], int]]:
    """All that sessions hold, as (session, (run key, ordinal), token)."""
    runs = await connection.fetch(RUNS["read_runs_of_sessions"], ids, 1_000_000)
    steps = await connection.fetch(STEPS["read_steps_of_sessions"], ids, 1_000_000)
    jobs = await connection.fetch(JOBS["read_jobs_of_sessions"], ids, 1_000_000)
    held = [(row["session_id"], (row["run_key"], 0), row["grants"]) for row in runs]
    held += [(row["session_id"], (row["run_key"], row["ordinal"]), row["grants"]) for row in steps]
    return held + [(row["session_id"], (row["job_key"], JOB_ORDINAL), row["grants"]) for row in jobs]


async def read_leases(connection: Connection, keys: Sequence[int]) -> dict[int, tuple[UUID | None, int, int]]:
    """Who holds which open run, under which token, and its last event."""
    found = await read_runs(connection, keys)
    return {key: (run.session_id, run.grants, run.last_event) for key, run in found.items()}


async def read_runs(connection: Connection, keys: Sequence[int]) -> dict[int, Run]:
    """Open runs by key."""
    return {row["run_key"]: Run(*row) for row in await connection.fetch(RUNS["read_runs"], keys)}


async def closed_steps_since(connection: Connection, run_key: int, event: int) -> list[ClosedStep]:
    """Steps of a run that ended after an event, in the order of their ends."""
    return [ClosedStep(*row) for row in await connection.fetch(STEPS["closed_steps_since"], run_key, event)]


async def write_heartbeats(connection: Connection, beats: Sequence[Beat]) -> dict[tuple[int, int], tuple[bool, int]]:
    """Notes heartbeats of held activities and jobs.

    Answers which were held, whether they should stop, and their attempts.
    """
    latest = {beat[:2]: beat for beat in beats}
    rows = [(*beat[:5], pack_payload(beat[5])) for _, beat in sorted(latest.items())]
    steps, jobs = [row for row in rows if row[1] != JOB_ORDINAL], [row for row in rows if row[1] == JOB_ORDINAL]
    found = await connection.fetch(STEPS["write_heartbeats"], *pairs(steps)) if steps else []
    found += await connection.fetch(JOBS["write_job_heartbeats"], *pairs(jobs)) if jobs else []
    return {(row[0], row[1]): (row[2], row[3]) for row in found}
