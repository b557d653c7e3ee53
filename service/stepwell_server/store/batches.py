"""Everything that a batch of the committer writes, set by set; and whether it was committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import astuple

from stepwell_server.model.concurrency import Line
from stepwell_server.model.dispatches import IdempotencyKey
from stepwell_server.model.driven import Side, SideKey
from stepwell_server.model.mail import Mail
from stepwell_server.model.requests import Recorded
from stepwell_server.model.run_calls import Published
from stepwell_server.model.runs import ClosedRun, Run, RunId
from stepwell_server.model.search_attributes import SearchAttribute
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import ClosedStep, Scope, Step
from stepwell_server.model.tasks import Task
from stepwell_server.model.topics import TopicCopy, TopicPosition
from stepwell_server.store import (
    concurrency,
    dispatches,
    job_batches,
    key_buckets,
    queue_settings,
    search_attributes,
    sides,
    topics,
)
from stepwell_server.store.columns import columns, pairs
from stepwell_server.store.dispatches import StepOfRun
from stepwell_server.store.faults import Conflict
from stepwell_server.store.job_batches import JobWrite
from stepwell_server.store.statements import load
from stepwell_server.store.writing import Writing

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.model.events import CopiedEvent, Event
    from stepwell_server.store.connection import Connection

RUNS, STEPS, EVENTS, SIGNALS = load("runs"), load("steps"), load("events"), load("signals")
TASKS, MAIL, BATCHES, INBOX = load("tasks"), load("mail"), load("batches"), load("inbox")
PUBLISHED, REQUESTS = load("published"), load("requests")
_RUN_CHANGES = Run.__struct_fields__.index("phase")
_STEP_CHANGES = slice(Step.__struct_fields__.index("state"), Step.__struct_fields__.index("managed"))

Identity = tuple[int, str, str, int, str]
# Of a Write: what goes by statements of its own, after the rest.
_FURTHER = (
    *("topic_copies", "topic_positions", "copies", "signals", "consumed", "carried_away", "carried", "given_back"),
    *("signals_gone", "mail", "mail_done", "inbox_done", "tokens", "key_tokens", "sides", "sides_gone", "served"),
    *("dispatches_claimed", "dispatches_released", "published", "search_attributes", "search_attributes_gone"),
)


class Write(msgspec.Struct):
    """Everything that one batch writes. Rows of one table never name the same key twice."""

    batch_id: UUID
    committer: int
    position: int
    now: datetime
    ended: list[int] = []
    notices: list[int] = []
    run_ids: list[RunId] = []
    names: list[tuple[str, int, int]] = []
    renamed: list[tuple[str, int, int, int]] = []  # workflow id, namespace, the turn found, run key
    reopened_runs: list[tuple[int, int]] = []  # run key, the version found
    new_runs: list[Run] = []
    changed_runs: list[tuple[int, Run]] = []  # with the version that each was decided on
    gone_runs: list[tuple[int, int]] = []  # run key, the version decided on
    closed_runs: list[ClosedRun] = []
    new_steps: list[Step] = []
    changed_steps: list[Step] = []
    gone_steps: list[tuple[int, int]] = []
    closed_steps: list[ClosedStep] = []
    events: list[Event] = []
    copies: list[CopiedEvent] = []
    scopes: list[Scope] = []
    scopes_gone: list[int] = []
    signals: list[Signal] = []
    consumed: list[tuple[int, int]] = []
    carried_away: list[tuple[int, int]] = []
    carried: list[Signal] = []
    given_back: list[Signal] = []
    signals_gone: list[int] = []
    tasks: list[Task] = []
    tasks_gone: list[tuple[int, int]] = []
    removed_steps: list[Identity] = []
    sides: list[tuple[int, SideKey, Side | None]] = []
    sides_gone: list[int] = []
    served: dict[Line, str] = {}
    idempotency_keys: list[IdempotencyKey] = []
    dispatches_claimed: list[tuple[StepOfRun, datetime]] = []
    dispatches_released: list[StepOfRun] = []
    published: list[Published] = []
    search_attributes: list[SearchAttribute] = []
    search_attributes_gone: list[tuple[int, str]] = []
    requests: list[Recorded] = []
    topic_copies: list[TopicCopy] = []
    topic_positions: list[TopicPosition] = []
    mail: list[Mail] = []
    mail_done: list[UUID] = []
    inbox_done: list[int] = []
    tokens: list[tuple[int, str, datetime]] = []  # namespace, queue, until when its bucket is spent
    key_tokens: list[tuple[int, str, str, datetime, float]] = []  # the same of a key, and in how long one fills
    jobs: JobWrite = msgspec.field(default_factory=JobWrite)

    @property
    def is_empty(self) -> bool:
        """Whether the batch has changed nothing that anybody must hear of."""
        runs = self.events or self.changed_runs or self.mail_done or self.tasks_gone
        attributes = self.search_attributes or self.search_attributes_gone
        return self.jobs.is_empty and not (runs or attributes or self.requests or self.sides or self.inbox_done)

    @property
    def has_more(self) -> bool:
        """Whether anything is written besides runs, steps, events, jobs and tasks."""
        return any(getattr(self, name) for name in _FURTHER)


async def write(connection: Connection, batch: Write) -> None:
    """Writes a batch, tables in one order and keys sorted. Raises Conflict if what it was decided on has changed."""
    out = Writing(connection)
    row = (batch.batch_id, batch.committer, batch.position, batch.now, batch.ended, batch.notices or None)
    out.insert(BATCHES["insert_batch"], [row])
    if batch.requests:
        batch.requests.sort(key=lambda row: (row.request_id, row.namespace_id, row.method))
        out.insert(REQUESTS["insert_requests"], map(astuple, batch.requests))
    await _write_runs(connection, batch, out)
    await _write_steps(batch, out)
    if batch.events:
        out.insert(EVENTS["insert_events"], map(astuple, batch.events))
    await job_batches.write(connection, batch.jobs, out)
    await _write_tasks(batch, out)
    await out.send(is_all=not batch.has_more)
    if batch.topic_copies or batch.topic_positions:
        await topics.write(connection, batch.topic_copies, batch.topic_positions)
    # What came in this very batch may go on with a run's successor.
    if batch.copies:
        out.change(EVENTS["copy_events"], columns(batch.copies), len(batch.copies))
        await out.send()
    await _write_signals(connection, batch)
    await _write_mail(connection, batch)
    if batch.tokens:
        await queue_settings.spend(connection, batch.tokens)
    if batch.key_tokens:
        await key_buckets.write(connection, batch.key_tokens)
    if batch.sides or batch.sides_gone:
        await sides.write(connection, batch.sides, batch.sides_gone)
    if batch.served:
        await concurrency.write_rounds(connection, batch.served.items())
    if batch.dispatches_claimed or batch.dispatches_released:
        await dispatches.note(connection, batch.dispatches_claimed, batch.dispatches_released)
    if batch.published:
        await connection.write(PUBLISHED["write_published"], columns(batch.published))
    if batch.search_attributes or batch.search_attributes_gone:
        await search_attributes.write(connection, batch.search_attributes, batch.search_attributes_gone)


async def _write_runs(connection: Connection, batch: Write, out: Writing) -> None:
    if batch.run_ids:
        batch.run_ids.sort(key=lambda entry: (entry.run_id.int, entry.namespace_id))
        out.insert(RUNS["insert_run_ids"], map(astuple, batch.run_ids))
    if batch.idempotency_keys:
        await out.send()
        await dispatches.insert_keys(connection, batch.idempotency_keys)
    if batch.names:
        out.insert(RUNS["insert_workflow_ids"], sorted(batch.names))
    if batch.renamed:
        await out.send()
        out.change(RUNS["update_workflow_ids"], pairs(sorted(batch.renamed)), len(batch.renamed))
    if batch.reopened_runs:
        out.change(RUNS["delete_closed_runs"], pairs(sorted(batch.reopened_runs)), len(batch.reopened_runs))
        await out.send()
    if batch.new_runs:
        out.insert(RUNS["insert_runs"], map(astuple, batch.new_runs))
    if batch.changed_runs:
        rows = [(run.run_key, found, *astuple(run)[_RUN_CHANGES:]) for found, run in batch.changed_runs]
        out.change(RUNS["update_runs"], pairs(rows), len(rows))
    if batch.gone_runs:
        out.change(RUNS["delete_runs"], pairs(sorted(batch.gone_runs)), len(batch.gone_runs))
    if batch.closed_runs:
        out.insert(RUNS["insert_closed_runs"], map(astuple, batch.closed_runs))


async def _write_steps(batch: Write, out: Writing) -> None:
    if batch.removed_steps:
        out.change(STEPS["delete_closed_steps"], pairs(batch.removed_steps))
    if batch.gone_steps:
        out.change(STEPS["delete_steps"], pairs(batch.gone_steps))
    if batch.removed_steps or (batch.gone_steps and batch.new_steps):
        await out.send()  # a step may go and come again
    if batch.new_steps:
        out.insert(STEPS["insert_steps"], map(astuple, batch.new_steps))
    if batch.changed_steps:
        rows = [(step.run_key, step.ordinal, *astuple(step)[_STEP_CHANGES]) for step in batch.changed_steps]
        out.change(STEPS["update_steps"], pairs(rows))
    if batch.closed_steps:
        out.insert(STEPS["insert_closed_steps"], map(astuple, batch.closed_steps))
    if batch.scopes:
        out.change(STEPS["write_scopes"], columns(batch.scopes))
    if batch.scopes_gone:
        await out.send()  # a branch may have begun in this very batch
        out.change(STEPS["delete_scopes"], [batch.scopes_gone])


async def _write_tasks(batch: Write, out: Writing) -> None:
    if batch.tasks_gone:
        out.change(TASKS["delete_tasks"], pairs(sorted(batch.tasks_gone)))
        if batch.tasks:
            await out.send()  # a task may go and come again
    if batch.tasks:
        out.insert(TASKS["insert_tasks"], map(astuple, batch.tasks))


async def _write_signals(connection: Connection, batch: Write) -> None:
    if batch.signals:
        await connection.insert(SIGNALS["insert_signals"], map(astuple, batch.signals))
    if batch.consumed:
        await connection.write(SIGNALS["consume_signals"], pairs(batch.consumed))
    if batch.carried_away:
        await connection.write(SIGNALS["carry_signals_away"], pairs(batch.carried_away))
    if batch.carried:
        await connection.insert(SIGNALS["insert_signals"], map(astuple, batch.carried))
    if batch.given_back:
        await connection.write(SIGNALS["give_back_signals"], columns(batch.given_back))
    if batch.signals_gone:
        await connection.write(SIGNALS["delete_signals"], [batch.signals_gone])


async def _write_mail(connection: Connection, batch: Write) -> None:
    if batch.mail:
        await connection.insert(MAIL["insert_mail"], map(astuple, batch.mail))
    if batch.mail_done:
        deleted = await connection.write(MAIL["delete_mail"], [sorted(batch.mail_done)])
        if deleted != len(batch.mail_done):
            raise Conflict("mail was applied by somebody else")
    if batch.inbox_done:
        deleted = await connection.write(INBOX["delete_inbox"], [sorted(batch.inbox_done)])
        if deleted != len(batch.inbox_done):
            raise Conflict("somebody else has dealt with the inbox")


async def is_there(connection: Connection, committer: int, position: int) -> bool:
    """Whether a batch is there; one that was committed long ago may have been pruned."""
    return bool(await connection.fetchval(BATCHES["find_batch"], committer, position))


async def take_committer_number(connection: Connection) -> int:
    """A number that no other committer has or had."""
    number: int = await connection.fetchval(BATCHES["take_committer_number"])
    return number


async def settle(connection: Connection, batch_id: UUID, now: datetime) -> bool:
    """Whether a batch whose COMMIT went unanswered was committed. Waits for its transaction if that is still open."""
    committer: int = await connection.fetchval(BATCHES["settle_batch"], batch_id, now)
    return committer != 0
