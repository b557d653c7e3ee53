"""Loading and writing what a batch of the committer needs, set by set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import astuple

from stepwell_server.model.dispatches import IdempotencyKey
from stepwell_server.model.driven import Side, SideKey
from stepwell_server.model.events import EventType, received_signal
from stepwell_server.model.mail import Mail
from stepwell_server.model.payloads import Payload, unpack_payload
from stepwell_server.model.requests import Recorded, RequestKey
from stepwell_server.model.run_calls import Published
from stepwell_server.model.runs import ClosedRun, Run, RunId
from stepwell_server.model.search_attributes import SearchAttribute
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import ClosedStep, Scope, Step
from stepwell_server.model.tasks import Task
from stepwell_server.model.topics import TopicCopy, TopicPosition
from stepwell_server.store import dispatches, job_batches, search_attributes, sides, topics
from stepwell_server.store.columns import columns, pairs
from stepwell_server.store.database import Conflict
from stepwell_server.store.dispatches import StepOfRun
from stepwell_server.store.job_batches import JobWrite
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.model.events import CopiedEvent, Event
    from stepwell_server.store.database import Connection, Row
    from stepwell_server.store.statements import Statement

RUNS, STEPS, EVENTS, SIGNALS = load("runs"), load("steps"), load("events"), load("signals")
TASKS, MAIL, BATCHES, INBOX = load("tasks"), load("mail"), load("batches"), load("inbox")
NAMESPACES, PUBLISHED, REQUESTS = load("namespaces"), load("published"), load("requests")
_RUN_CHANGES = Run.__struct_fields__.index("phase")
_STEP_CHANGES = slice(Step.__struct_fields__.index("state"), Step.__struct_fields__.index("managed"))
_SPARE_CANDIDATES = 16

Identity = tuple[int, str, str, int, str]


class Write(msgspec.Struct):
    """Everything that one batch writes. Rows of one table never name the same key twice."""

    batch_id: UUID
    committer: int
    position: int
    now: datetime
    ended: list[int] = []
    run_ids: list[RunId] = []
    names: list[tuple[str, int, int]] = []
    renamed: list[tuple[str, int, int, int]] = []  # workflow id, namespace, the turn found, run key
    reopened_runs: list[tuple[int, int]] = []  # run key, the version found
    new_runs: list[Run] = []
    changed_runs: list[Run] = []
    gone_runs: list[int] = []
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
    jobs: JobWrite = msgspec.field(default_factory=JobWrite)

    @property
    def is_empty(self) -> bool:
        """Whether the batch has changed nothing that anybody must hear of."""
        runs = self.events or self.changed_runs or self.mail_done or self.tasks_gone
        attributes = self.search_attributes or self.search_attributes_gone
        return self.jobs.is_empty and not (runs or attributes or self.requests or self.sides or self.inbox_done)


async def write(connection: Connection, batch: Write) -> None:
    """Writes a batch, tables in one order and keys sorted. Raises Conflict if what it was decided on has changed."""
    await connection.fetch(
        BATCHES["insert_batch"], batch.batch_id, batch.committer, batch.position, batch.now, batch.ended
    )
    if batch.requests:
        batch.requests.sort(key=lambda row: (row.request_id, row.namespace_id, row.method))
        await connection.write(REQUESTS["insert_requests"], columns(batch.requests))
    await _write_runs(connection, batch)
    await _write_steps(connection, batch)
    if batch.events:
        await connection.write(EVENTS["insert_events"], columns(batch.events))
    if batch.topic_copies or batch.topic_positions:
        await topics.write(connection, batch.topic_copies, batch.topic_positions)
    # What came in this very batch may go on with a run's successor.
    if batch.copies:
        await _all_of(connection, EVENTS["copy_events"], columns(batch.copies), len(batch.copies))
    await _write_signals(connection, batch)
    await job_batches.write(connection, batch.jobs)
    await _write_tasks_and_mail(connection, batch)
    if batch.sides or batch.sides_gone:
        await sides.write(connection, batch.sides, batch.sides_gone)
    if batch.dispatches_claimed or batch.dispatches_released:
        await dispatches.note(connection, batch.dispatches_claimed, batch.dispatches_released)
    if batch.published:
        await connection.write(PUBLISHED["write_published"], columns(batch.published))
    if batch.search_attributes or batch.search_attributes_gone:
        await search_attributes.write(connection, batch.search_attributes, batch.search_attributes_gone)


async def _write_runs(connection: Connection, batch: Write) -> None:
    if batch.run_ids:
        batch.run_ids.sort(key=lambda entry: (entry.run_id.int, entry.namespace_id))
        await connection.write(RUNS["insert_run_ids"], columns(batch.run_ids))
    if batch.idempotency_keys:
        await dispatches.insert_keys(connection, batch.idempotency_keys)
    if batch.names:
        await connection.write(RUNS["insert_workflow_ids"], pairs(sorted(batch.names)))
    if batch.renamed:
        await _all_of(connection, RUNS["update_workflow_ids"], pairs(sorted(batch.renamed)), len(batch.renamed))
    if batch.reopened_runs:
        count = len(batch.reopened_runs)
        await _all_of(connection, RUNS["delete_closed_runs"], pairs(sorted(batch.reopened_runs)), count)
    if batch.new_runs:
        await connection.write(RUNS["insert_runs"], columns(batch.new_runs))
    if batch.changed_runs:
        rows = [(run.run_key, *astuple(run)[_RUN_CHANGES:]) for run in batch.changed_runs]
        await _all_of(connection, RUNS["update_runs"], pairs(rows), len(rows))
    if batch.gone_runs:
        await _all_of(connection, RUNS["delete_runs"], [batch.gone_runs], len(batch.gone_runs))
    if batch.closed_runs:
        await connection.write(RUNS["insert_closed_runs"], columns(batch.closed_runs))


async def _all_of(
    connection: Connection, statement: Statement, arguments: Sequence[Sequence[object]], expected: int
) -> None:
    touched = await connection.write(statement, arguments)
    if touched != expected:
        raise Conflict(f"{statement.name}: {touched} rows of {expected}")


async def _write_steps(connection: Connection, batch: Write) -> None:
    if batch.removed_steps:
        await connection.write(STEPS["delete_closed_steps"], pairs(batch.removed_steps))
    if batch.gone_steps:
        await connection.write(STEPS["delete_steps"], pairs(batch.gone_steps))
    if batch.new_steps:
        await connection.write(STEPS["insert_steps"], columns(batch.new_steps))
    if batch.changed_steps:
        rows = [(step.run_key, step.ordinal, *astuple(step)[_STEP_CHANGES]) for step in batch.changed_steps]
        await connection.write(STEPS["update_steps"], pairs(rows))
    if batch.closed_steps:
        await connection.write(STEPS["insert_closed_steps"], columns(batch.closed_steps))
    if batch.scopes:
        await connection.write(STEPS["write_scopes"], columns(batch.scopes))
    if batch.scopes_gone:
        await connection.write(STEPS["delete_scopes"], [batch.scopes_gone])


async def _write_signals(connection: Connection, batch: Write) -> None:
    if batch.signals:
        await connection.write(SIGNALS["insert_signals"], columns(batch.signals))
    if batch.consumed:
        await connection.write(SIGNALS["consume_signals"], pairs(batch.consumed))
    if batch.carried_away:
        await connection.write(SIGNALS["carry_signals_away"], pairs(batch.carried_away))
    if batch.carried:
        await connection.write(SIGNALS["insert_signals"], columns(batch.carried))
    if batch.given_back:
        await connection.write(SIGNALS["give_back_signals"], columns(batch.given_back))
    if batch.signals_gone:
        await connection.write(SIGNALS["delete_signals"], [batch.signals_gone])


async def _write_tasks_and_mail(connection: Connection, batch: Write) -> None:
    if batch.tasks_gone:
        await connection.write(TASKS["delete_tasks"], pairs(sorted(batch.tasks_gone)))
    if batch.tasks:
        await connection.write(TASKS["insert_tasks"], columns(batch.tasks))
    if batch.mail:
        await connection.write(MAIL["insert_mail"], columns(batch.mail))
    if batch.mail_done:
        deleted = await connection.write(MAIL["delete_mail"], [sorted(batch.mail_done)])
        if deleted != len(batch.mail_done):
            raise Conflict("mail was applied by somebody else")
    if batch.inbox_done:
        deleted = await connection.write(INBOX["delete_inbox"], [sorted(batch.inbox_done)])
        if deleted != len(batch.inbox_done):
            raise Conflict("somebody else has dealt with the inbox")


# --- loading ----------------------------------------------------------------------------------------------------------


async def hold_namespaces(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Those of the namespaces that are there and not being deleted; they stay until the batch has ended."""
    return {row[0] for row in await connection.fetch(NAMESPACES["hold_namespaces"], ids)}


async def find_namespaces(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Those of the namespaces that are there, though one may be gone in a moment."""
    return {row[0] for row in await connection.fetch(NAMESPACES["find_namespaces"], ids)}


async def take_run_keys(connection: Connection) -> range:
    """A block of run keys that nobody else will get."""
    block = await connection.fetchval(RUNS["take_run_keys"])
    return range(block * 1000, block * 1000 + 1000)


async def take_committer_number(connection: Connection) -> int:
    """A number that no other committer has or had."""
    number: int = await connection.fetchval(BATCHES["take_committer_number"])
    return number


async def find_run_ids(connection: Connection, wanted: Sequence[tuple[UUID, int | None]]) -> list[list[RunId]]:
    """The runs of each id, in the order asked; two if it is ambiguous."""
    found: list[list[RunId]] = [[] for _ in wanted]
    for row in await connection.fetch(RUNS["find_run_ids"], *pairs(wanted)):
        found[row[0] - 1].append(RunId(*row[1:]))
    return found


async def find_workflow_ids(connection: Connection, wanted: Sequence[tuple[str, int | None]]) -> list[list[Row]]:
    """The latest runs of each workflow id, in the order asked: (place, id, namespace, key, turn, run id, phase)."""
    found: list[list[Row]] = [[] for _ in wanted]
    for row in await connection.fetch(RUNS["find_workflow_ids"], *pairs(wanted)):
        found[row[0] - 1].append(row)
    return found


async def lock_runs(connection: Connection, keys: Iterable[int]) -> list[Run]:
    """Open runs, locked; those that are locked elsewhere are left out."""
    return [Run(*row) for row in await connection.fetch(RUNS["lock_runs"], sorted(keys))]


async def await_runs(connection: Connection, keys: Sequence[int]) -> None:
    """Locks open runs in the order of their keys, and waits for those that are locked elsewhere."""
    await connection.fetch(RUNS["await_runs"], keys)


async def open_keys(connection: Connection, keys: Sequence[int]) -> set[int]:
    """Which of the runs are open, locked or not."""
    return {row["run_key"] for row in await connection.fetch(RUNS["read_runs"], keys)}


async def read_closed_runs(connection: Connection, keys: Sequence[int]) -> list[ClosedRun]:
    """Runs that have ended."""
    return [ClosedRun(*row) for row in await connection.fetch(RUNS["read_closed_runs"], keys)]


async def read_steps(connection: Connection, wanted: Sequence[tuple[int, int]]) -> list[Step | ClosedStep]:
    """Steps by run and ordinal, open or ended. Only what is not open is looked for among all that has ended."""
    keys = pairs(wanted)
    found: list[Step | ClosedStep] = [Step(*row) for row in await connection.fetch(STEPS["read_steps"], *keys)]
    there = {(step.run_key, step.ordinal) for step in found}
    ended = [key for key in wanted if key not in there]
    if ended:
        found += [ClosedStep(*row) for row in await connection.fetch(STEPS["read_closed_steps"], *pairs(ended))]
    return found


async def read_steps_named(connection: Connection, wanted: Sequence[Identity]) -> list[Step | ClosedStep]:
    """Steps by run and identity, open or ended. Only what is not open is looked for among all that has ended."""
    keys = pairs(wanted)
    found: list[Step | ClosedStep] = [Step(*row) for row in await connection.fetch(STEPS["read_steps_named"], *keys)]
    there = {(step.run_key, *step.identity) for step in found}
    ended = [key for key in wanted if key not in there]
    if ended:
        found += [ClosedStep(*row) for row in await connection.fetch(STEPS["read_closed_steps_named"], *pairs(ended))]
    return found


async def read_steps_waiting(connection: Connection, wanted: Sequence[tuple[int, str]]) -> list[Step]:
    """Open steps that wait for a name."""
    return [Step(*row) for row in await connection.fetch(STEPS["read_steps_waiting"], *pairs(wanted))]


async def read_open_steps(connection: Connection, keys: Sequence[int]) -> list[Step]:
    """All open steps of runs."""
    return [Step(*row) for row in await connection.fetch(STEPS["read_open_steps"], keys)]


async def read_all_closed_steps(connection: Connection, keys: Sequence[int]) -> list[ClosedStep]:
    """All ended steps of runs."""
    return [ClosedStep(*row) for row in await connection.fetch(STEPS["read_all_closed_steps"], keys)]


async def read_scopes(connection: Connection, wanted: Sequence[tuple[int, str]]) -> list[Scope]:
    """Branches of runs."""
    return [Scope(*row) for row in await connection.fetch(STEPS["read_scopes"], *pairs(wanted))]


async def read_signals(connection: Connection, wanted: Sequence[tuple[int, str, int]], most: int) -> list[Signal]:
    """Signals of names that nobody has taken, after an ordinal: the oldest first, so many of each."""
    return [Signal(*row) for row in await connection.fetch(SIGNALS["read_signals"], *pairs(wanted), most)]


async def read_signal_ids(connection: Connection, wanted: Sequence[tuple[int, str]]) -> list[Signal]:
    """Signals of chains of runs by their senders' ids."""
    return [Signal(*row) for row in await connection.fetch(SIGNALS["read_signal_ids"], *pairs(wanted))]


async def read_left_signals(connection: Connection, keys: Sequence[int], most: int) -> list[tuple[Signal, int]]:
    """Signals of runs that nobody has taken, so many of each, with the sizes of what they carry."""
    rows = await connection.fetch(SIGNALS["read_left_signals"], keys, most)
    return [(Signal(*row[:-1]), row[-1]) for row in rows]


async def read_kept_signals(connection: Connection, keys: Sequence[int]) -> list[Signal]:
    """All signals of runs that nobody has taken, oldest first."""
    return [Signal(*row) for row in await connection.fetch(SIGNALS["read_kept_signals"], keys)]


async def read_received_signals(connection: Connection, keys: Sequence[int]) -> list[Signal]:
    """All signals that runs ever got, and events of topics, by their own events."""
    types = [EventType.SIGNAL_RECEIVED, EventType.TOPIC_RECEIVED]
    rows = await connection.fetch(EVENTS["read_received_signals"], keys, types)
    return [received_signal(row[0], row[1], row[2], row[3]) for row in rows]


async def read_heartbeats(
    connection: Connection, wanted: Sequence[tuple[int, int]]
) -> list[tuple[int, int, datetime, Payload]]:
    """The latest heartbeats of activities."""
    rows = await connection.fetch(STEPS["read_heartbeats"], *pairs(wanted))
    return [(row[0], row[1], row[2], unpack_payload(row[3])) for row in rows]


async def mail_left(connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Which mail is still to be applied."""
    return {row[0] for row in await connection.fetch(MAIL["mail_left"], ids)}


async def inbox_left(connection: Connection, numbers: Sequence[int]) -> set[int]:
    """Which rows of the inbox are still to be dealt with."""
    return {row[0] for row in await connection.fetch(INBOX["inbox_left"], numbers)}


async def read_requests(connection: Connection, keys: Sequence[RequestKey]) -> list[Recorded]:
    """What requests were answered before."""
    return [Recorded(*row) for row in await connection.fetch(REQUESTS["read_requests"], *pairs(keys))]


async def claim_tasks(  # noqa: PLR0917 - the statement's parameters
    connection: Connection,
    namespace_id: int,
    task_queue: str,
    kind: int,
    types: Sequence[str],
    builds: Sequence[str],
    most: int,
) -> list[tuple[int, int, datetime]]:
    """The tasks that go first, as (run key, ordinal, since when they wait), locked.

    Runs are those that are pinned to one of the builds, or to none. Looks at some more than it takes. Only if others
    hold so many of those that it comes back short, it looks further.
    """
    looked = 2 * most + _SPARE_CANDIDATES
    while True:
        *rows, seen = await connection.fetch(
            TASKS["claim_tasks"], namespace_id, task_queue, kind, types, ["", *builds], most, looked
        )
        if len(rows) == most or seen[0] < looked:
            return [(row[0], row[1], row[2]) for row in rows]
        looked *= 4


async def claim_driven_activities(
    connection: Connection, namespace_id: int, task_queue: str, now: datetime, most: int
) -> list[tuple[int, int]]:
    """The activities of driven runs that have waited longest, as (run key, ordinal), locked."""
    rows = await connection.fetch(TASKS["claim_driven_activities"], namespace_id, task_queue, now, most)
    return [(row[0], row[1]) for row in rows]


async def settle(connection: Connection, batch_id: UUID, now: datetime) -> bool:
    """Whether a batch whose COMMIT went unanswered was committed. Waits for its transaction if that is still open."""
    committer: int = await connection.fetchval(BATCHES["settle_batch"], batch_id, now)
    return committer != 0
