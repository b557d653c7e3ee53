"""After a restoration: the database is older than what its workers, callers and watches know.

What was given out after the moment that it stands at (fencing tokens, versions, run keys, numbers of committers) would
be given out a second time, to others. So everything of that kind jumps ahead, further than anybody can have come
meanwhile, and all sessions end: whoever holds something from before is refused, and asks anew.
See docs/operations/backup.md.

    lock   the leader's lock of the schema: no server works meanwhile
    write  RAISED, SEQUENCES, sessions and (if asked for) schedules, in one transaction
    make   the partitions of the keys that come next, or their rows would go to the default ones
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import bindparam, column, delete, func, select, table, update

from stepwell_server.model.runs import pack_details, unpack_details
from stepwell_server.model.user_tasks import ACTIVE
from stepwell_server.store import migrations, partitions
from stepwell_server.store.database import Database
from stepwell_server.store.faults import in_our_words
from stepwell_server.store.leaders import lock_key
from stepwell_server.store.schema import (
    DEFINITIONS,
    JOBS,
    LEADERSHIPS,
    QUEUE_SETTINGS,
    RUNS,
    SCHEDULES,
    SESSIONS,
    STEPS,
    USER_TASKS,
)

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ScalarSelect, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.runs import RunDetails
    from stepwell_server.settings import Settings

JUMP = 1_000_000_000
"""How far tokens, versions and keys jump: a billion grants of one run, or runs of one deployment, lie in between."""
RAISED: dict[Table, tuple[str, ...]] = {
    RUNS: ("grants", "version"),
    STEPS: ("grants",),
    JOBS: ("grants",),
    LEADERSHIPS: ("epoch",),
    SCHEDULES: ("version",),
    QUEUE_SETTINGS: ("version",),
    USER_TASKS: ("version",),
    DEFINITIONS: ("revision",),
}
"""What callers hold and compare, of all that is open. Whoever adds such a column adds it here, or to KEPT."""
KEPT: dict[str, str] = {
    "closed_runs.grants": "who held it had a session, and no session of before goes on",
    "closed_runs.version": "compared within one batch only",
    "closed_steps.grants": "as of closed_runs",
    "closed_jobs.grants": "as of closed_runs",
    "workflow_ids.turn": "compared within one batch only",
    "unique_jobs.turn": "compared within one batch only",
    "definitions.version": "a name that people give",
    "stepwell_version.version": "the schema's",
    "inbox.token": "what a caller gave",
    "dead_letters.token": "what a caller gave",
}
"""The other columns that count grants or changes, each with the reason that it stays."""
SEQUENCES: dict[str, int] = {
    "run_key_blocks": JUMP // 1_000,
    "committer_numbers": 1_000_000,
    "topic_numbers": JUMP,
    "inbox_number_seq": JUMP,
    "definitions_definition_key_seq": 1_000_000,
    "namespaces_namespace_id_seq": 1_000,
}
"""By how much each sequence jumps; blocks are of a thousand keys, and a namespace's id has 31 bits."""
PAUSE_REASON = "restored"
_SLICE = 1_000
_STATEMENT_SECONDS = 3_600.0


class RestorationError(RuntimeError):
    """The database can't be made safe to serve; the message says what to do."""


class Restored(NamedTuple):
    """What was raised, ended and paused."""

    runs: int
    steps: int
    jobs: int
    sessions: int
    schedules_paused: int


async def raise_all(settings: Settings, now: datetime, *, pauses_schedules: bool) -> Restored:
    """Makes a restored database safe to serve, all or nothing. Done twice it does no harm.

    Raises RestorationError if the schema is not for this server, or if a server is at work.
    """
    window = await migrations.check(settings.direct_url() or "", schema=settings.database_schema)
    if not window.may_run:
        raise RestorationError(window.advice)
    patient = {"statement_seconds": _STATEMENT_SECONDS, "pool_url": None}
    database = Database(settings.model_copy(update=patient))
    try:
        with in_our_words():
            restored = await _raise_all(database, settings.database_schema, now, pauses_schedules=pauses_schedules)
            await _make_partitions(database)
    finally:
        await database.close()
    return restored


async def _raise_all(database: Database, schema: str, now: datetime, *, pauses_schedules: bool) -> Restored:
    async with database.pool.begin() as connection:
        if not await connection.scalar(select(func.pg_try_advisory_xact_lock(lock_key(schema)))):
            raise RestorationError("a server leads on this database: stop all servers, and repeat")
        raised = {each.name: await _raise(connection, each, names) for each, names in RAISED.items()}
        await _raise_data_versions(connection)
        for name, jump in SEQUENCES.items():
            await connection.execute(select(func.setval(name, _last_value(name) + jump)))
        sessions = (await connection.execute(delete(SESSIONS))).rowcount
        paused = await _pause_schedules(connection, now) if pauses_schedules else 0
    return Restored(raised["runs"], raised["steps"], raised["jobs"], sessions, paused)


async def _raise(connection: AsyncConnection, raised: Table, names: tuple[str, ...]) -> int:
    change = update(raised).values({name: raised.c[name] + JUMP for name in names})
    if raised is USER_TASKS:
        change = change.where(USER_TASKS.c.status.in_(ACTIVE))
    return (await connection.execute(change)).rowcount


async def _raise_data_versions(connection: AsyncConnection) -> None:
    """The versions of driven runs' data stand in their details."""
    change = update(RUNS).where(RUNS.c.run_key == bindparam("key")).values(details=bindparam("raised"))
    query = select(RUNS.c.run_key, RUNS.c.details).where(RUNS.c.driven, RUNS.c.details.is_not(None))
    query = query.order_by(RUNS.c.run_key).limit(_SLICE)
    rows = (await connection.execute(query)).all()
    while rows:
        found = [(key, unpack_details(packed)) for key, packed in rows]
        if raised := [_raised(key, details) for key, details in found if details.data_version]:
            await connection.execute(change, raised)
        rows = (await connection.execute(query.where(RUNS.c.run_key > rows[-1].run_key))).all()


def _raised(run_key: int, details: RunDetails) -> dict[str, object]:
    return {"key": run_key, "raised": pack_details(replace(details, data_version=details.data_version + JUMP))}


def _last_value(sequence: str) -> ScalarSelect[Any]:
    return select(table(sequence, column("last_value")).c.last_value).scalar_subquery()


async def _pause_schedules(connection: AsyncConnection, now: datetime) -> int:
    schedules = SCHEDULES.c
    change = update(SCHEDULES).where(schedules.pause_reason.is_(None))
    values = {"pause_reason": PAUSE_REASON, "next_time": None, "next_nominal": None, "update_time": now}
    return (await connection.execute(change.values(values))).rowcount


async def _make_partitions(database: Database) -> None:
    connection = await database.connect("restored", pinned=False)
    try:
        current = await partitions.last_run_key(connection) // partitions.RUN_KEYS + 1
        for name in partitions.TABLES:
            there = await partitions.read_partitions(connection, name)
            for number in sorted({current, current + 1} - there):
                await partitions.add_partition(connection, name, number)
    finally:
        await connection.close()
