"""What a batch of the committer reads, locks and takes before it decides, set by set; `batches` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.model.events import EventType, received_signal
from stepwell_server.model.payloads import Payload, unpack_payload
from stepwell_server.model.requests import Recorded, RequestKey
from stepwell_server.model.runs import ClosedRun, Run, RunId
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import ClosedStep, Scope, Step
from stepwell_server.store.claim_floors import Head
from stepwell_server.store.columns import pairs
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.store.batches import Identity
    from stepwell_server.store.connection import Connection, Row

RUNS, STEPS, EVENTS, SIGNALS = load("runs"), load("steps"), load("events"), load("signals")
TASKS, MAIL, INBOX = load("tasks"), load("mail"), load("inbox")
NAMESPACES, REQUESTS = load("namespaces"), load("requests")
_SPARE_CANDIDATES = 16


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
    now: datetime,
) -> list[tuple[int, int, datetime]]:
    """The tasks that go first, as (run key, ordinal, since when they wait), locked.

    Runs are those that are pinned to one of the builds, or to none. Looks at some more than it takes. Only if others
    hold so many of those that it comes back short, it looks further.
    """
    queue, floors = (namespace_id, task_queue, kind), connection.floors
    sorts = [(type_, build) for type_ in types for build in ("", *builds)]
    if not sorts:
        return []
    walks = pairs(floors.walks(queue, sorts, now))
    looked = 2 * most + _SPARE_CANDIDATES
    while True:
        rows = await connection.fetch(TASKS["claim_tasks"], *queue, most, looked, *walks)
        found = [(row[0], row[1], row[2]) for row in rows if row[3] is None]
        heads = [Head(row[3], row[4], row[5], row[0], row[2]) for row in rows[len(found) :]]
        is_all = sum(head.seen for head in heads) < looked
        if len(found) == most or is_all:
            floors.saw(queue, sorts, heads, now, is_all=is_all)
            return found
        looked *= 4


async def claim_aging_tasks(  # noqa: PLR0917 - the statement's parameters
    connection: Connection,
    namespace_id: int,
    task_queue: str,
    kind: int,
    types: Sequence[str],
    builds: Sequence[str],
    most: int,
    aging_seconds: float,
) -> list[tuple[int, int, datetime]]:
    """The same of a queue whose tasks gain a step of priority each time that they have waited so long."""
    looked = 2 * most + _SPARE_CANDIDATES
    while True:
        *rows, seen = await connection.fetch(
            TASKS["claim_aging_tasks"],
            namespace_id,
            task_queue,
            kind,
            types,
            ["", *builds],
            most,
            looked,
            aging_seconds,
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
