"""What the code believes of the database is so: its tables, the rows' order of columns, and every named statement."""

from __future__ import annotations

import asyncpg
import msgspec
import pytest
from sqlalchemy.dialects import postgresql

from stepwell_server.model.api_keys import ApiKey
from stepwell_server.model.dispatches import Dispatch, IdempotencyKey
from stepwell_server.model.driven import CallerSeq, RunDatum, RunDefinition, RunOrigin, RunTask, Watcher
from stepwell_server.model.events import Event
from stepwell_server.model.inbox import DeadLetter, InboxRow
from stepwell_server.model.jobs import ClosedJob, Job, JobId
from stepwell_server.model.mail import Mail
from stepwell_server.model.queue_settings import QueueSettings
from stepwell_server.model.requests import Recorded
from stepwell_server.model.runs import ClosedRun, Run, RunId
from stepwell_server.model.schedules import Schedule, ScheduleRun, Waiting
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import ClosedStep, Scope, Step
from stepwell_server.model.tasks import Task
from stepwell_server.model.topics import TopicPosition, TopicWait
from stepwell_server.model.user_tasks import UserTask
from stepwell_server.model.workers import RegisteredWorker, Session
from stepwell_server.store import schema, statements
from stepwell_server.store.namespaces import NamespaceRow

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
# As Postgres prints them.
PRINTED = {
    "BIGINT[]": "bigint[]",
    "BYTEA": "bytea",
    "DOUBLE PRECISION": "double precision",
    "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
}
# The migrations' own record is read by them alone.
OWN = {"stepwell_schema", "stepwell_version"}
ROWS: list[tuple[str, type[msgspec.Struct]]] = [
    ("runs", Run),
    ("closed_runs", ClosedRun),
    ("steps", Step),
    ("closed_steps", ClosedStep),
    ("events", Event),
    ("signals", Signal),
    ("scopes", Scope),
    ("tasks", Task),
    ("mail", Mail),
    ("sessions", Session),
    ("requests", Recorded),
    ("workers", RegisteredWorker),
    ("run_ids", RunId),
    ("namespaces", NamespaceRow),
    ("watchers", Watcher),
    ("topic_waits", TopicWait),
    ("topic_positions", TopicPosition),
    ("user_tasks", UserTask),
    ("run_tasks", RunTask),
    ("caller_seqs", CallerSeq),
    ("run_origins", RunOrigin),
    ("dispatches", Dispatch),
    ("idempotency_keys", IdempotencyKey),
    ("run_definitions", RunDefinition),
    ("run_data", RunDatum),
    ("queue_settings", QueueSettings),
    ("schedules", Schedule),
    ("schedule_firings", Waiting),
    ("schedule_runs", ScheduleRun),
    ("job_ids", JobId),
    ("jobs", Job),
    ("api_keys", ApiKey),
    ("inbox", InboxRow),
    ("dead_letters", DeadLetter),
]
COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, coalesce(i.indisprimary, FALSE)
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'stepwell'
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY(i.indkey)
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
    ORDER BY c.relname, a.attnum
"""
Columns = list[tuple[str, str, bool, bool]]


async def migrated(url: str) -> dict[str, Columns]:
    """The tables of a database: of each column its name, type, whether it may be null and is of the primary key."""
    connection = await asyncpg.connect(url)
    try:
        tables: dict[str, Columns] = {}
        for table, *column in await connection.fetch(COLUMNS):
            tables.setdefault(table, []).append((column[0], column[1], column[2], column[3]))
        return tables
    finally:
        await connection.close()


def declared() -> dict[str, Columns]:
    """The same of the tables in the code."""
    return {
        table.name: [
            (column.name, printed(str(column.type.compile(DIALECT))), bool(column.nullable), column.primary_key)
            for column in table.columns
        ]
        for table in schema.METADATA.tables.values()
    }


def printed(kind: str) -> str:
    return PRINTED.get(kind, kind.lower())


async def test_the_tables_are_those_of_the_migrations(database_url: str) -> None:
    """Names, order, types, what may be null and what is the key: for every table, and no other."""
    found = {name: columns for name, columns in (await migrated(database_url)).items() if name not in OWN}
    assert set(declared()) == set(found)
    for name, columns in declared().items():
        assert columns == found[name], name


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_the_fields_of_a_row_are_in_the_order_of_its_columns(table: str, row: type[msgspec.Struct]) -> None:
    """Batches are written, and rows are read, by position."""
    assert list(row.__struct_fields__) == [column.name for column in schema.METADATA.tables[table].columns]


def test_an_ended_job_is_all_of_its_row_but_its_result() -> None:
    """The result is written beside the job, and read by who wants it."""
    columns = [column.name for column in schema.METADATA.tables["closed_jobs"].columns]
    columns.remove("result")
    assert list(ClosedJob.__struct_fields__) == columns


async def test_every_statement_prepares(database_url: str) -> None:
    """Each named statement suits the migrated database, and says what it is for unless it is a plain insert."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    try:
        for noun in statements.nouns():
            for statement in statements.load(noun).values():
                sql = statement.sql
                if sql.startswith("COPY "):
                    table, columns = statements.target_of(sql)
                    sql = f"SELECT {', '.join(columns)} FROM {table}"  # noqa: S608 - of our own
                await connection.prepare(sql)
    finally:
        await connection.close()


def test_no_statement_has_the_name_of_another() -> None:
    """Connections keep prepared statements by name alone."""
    names = [name for noun in statements.nouns() for name in statements.load(noun)]
    assert sorted(names) == sorted(set(names))
