"""The small rows that runs have in tables of their own: waits, their tasks and people's, their callers' numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.model.concurrency import ConcurrencySlot
from stepwell_server.model.debounces import DebouncePlace, RunDebounce
from stepwell_server.model.driven import (
    CallerSeq,
    RunDatum,
    RunDefinition,
    RunOrigin,
    RunTask,
    Side,
    SideKey,
    Watcher,
)
from stepwell_server.model.topics import TopicWait
from stepwell_server.model.user_tasks import UserTask
from stepwell_server.store.columns import columns, pairs
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from stepwell_server.store.connection import Connection

SIDES = load("sides")
_DELETE: dict[type[Side], str] = {
    Watcher: "delete_watchers",
    TopicWait: "delete_topic_waits",
    UserTask: "delete_user_tasks",
    RunDatum: "delete_run_data",
    ConcurrencySlot: "delete_concurrency_slots",
    RunDebounce: "delete_run_debounces",
}
_WRITE: dict[type[Side], str] = {
    Watcher: "write_watchers",
    RunTask: "write_run_tasks",
    CallerSeq: "write_caller_seqs",
    TopicWait: "write_topic_waits",
    UserTask: "write_user_tasks",
    RunOrigin: "write_run_origins",
    RunDefinition: "write_run_definitions",
    RunDatum: "write_run_data",
    ConcurrencySlot: "write_concurrency_slots",
    RunDebounce: "write_run_debounces",
}


async def read(connection: Connection, wanted: Sequence[tuple[int, SideKey]]) -> list[tuple[int, SideKey, Side]]:
    """Rows by run and key, those that are there."""
    found: list[tuple[int, SideKey, Side]] = []
    asked = _by_kind(wanted)
    if watchers := asked.get(Watcher):
        for row in await connection.fetch(SIDES["read_watchers"], *pairs(watchers)):
            watcher = Watcher(*row)
            found.append((watcher.run_key, (Watcher, watcher.ordinal), watcher))
    if tasks := asked.get(RunTask):
        for row in await connection.fetch(SIDES["read_run_tasks"], [key for key, _ in tasks]):
            task = RunTask(*row)
            found.append((task.run_key, (RunTask, 0), task))
    if seqs := asked.get(CallerSeq):
        for row in await connection.fetch(SIDES["read_caller_seqs"], *pairs(seqs)):
            seq = CallerSeq(*row)
            found.append((seq.run_key, (CallerSeq, seq.caller_seq), seq))
    if user_tasks := asked.get(UserTask):
        for row in await connection.fetch(SIDES["read_user_tasks"], *pairs(user_tasks)):
            user_task = UserTask(*row)
            found.append((user_task.run_key, (UserTask, user_task.ordinal), user_task))
    if origins := asked.get(RunOrigin):
        for row in await connection.fetch(SIDES["read_run_origins"], [key for key, _ in origins]):
            origin = RunOrigin(*row)
            found.append((origin.run_key, (RunOrigin, 0), origin))
    if slots := asked.get(ConcurrencySlot):
        for row in await connection.fetch(SIDES["read_concurrency_slots"], [key for key, _ in slots]):
            slot = ConcurrencySlot(*row)
            found.append((slot.run_key, (ConcurrencySlot, 0), slot))
    if data := asked.get(RunDatum):
        for row in await connection.fetch(SIDES["read_run_data"], *pairs(data)):
            datum = RunDatum(*row)
            found.append((datum.run_key, (RunDatum, datum.name), datum))
    return found


async def find_debounces(connection: Connection, wanted: Sequence[DebouncePlace]) -> dict[DebouncePlace, int]:
    """The runs that wait until no start of these keys comes."""
    asked = [(number, *place) for number, place in enumerate(wanted)]
    return {wanted[row[0]]: row[1] for row in await connection.fetch(SIDES["find_run_debounces"], *pairs(asked))}


async def find_user_tasks(connection: Connection, wanted: Sequence[tuple[int, UUID]]) -> set[tuple[int, UUID]]:
    """Which of these ids, each with its namespace, are given to user tasks."""
    ids = [(task_id, namespace_id) for namespace_id, task_id in wanted]
    return {(row[1], row[0]) for row in await connection.fetch(SIDES["find_user_tasks"], *pairs(ids))}


async def write(
    connection: Connection, changed: Iterable[tuple[int, SideKey, Side | None]], gone: Sequence[int]
) -> None:
    """Writes rows, takes away those that are None, and what runs that have ended wait for.

    Callers' own numbers stay with an ended run: it may be opened again, and must know them then.
    """
    rows: dict[type[Side], list[Side]] = {}
    over: list[tuple[int, SideKey]] = []
    for run_key, key, row in changed:
        if row is None:
            over.append((run_key, key))
        else:
            rows.setdefault(key[0], []).append(row)
    for kind, keys in _by_kind(over).items():
        await connection.write(SIDES[_DELETE[kind]], pairs(sorted(keys)))
    for kind, name in _WRITE.items():
        if kind in rows:
            ordered: list[Side] = sorted(rows[kind], key=_place)
            await connection.write(SIDES[name], columns(ordered))
    if gone:
        for name in ("delete_watchers_of_runs", "delete_run_tasks"):
            await connection.write(SIDES[name], [sorted(gone)])


def _place(row: Side) -> tuple[int, int | str]:
    if isinstance(row, CallerSeq):
        return row.run_key, row.caller_seq
    if isinstance(row, RunDatum):
        return row.run_key, row.name
    return row.run_key, row.ordinal if isinstance(row, TopicWait | UserTask) else 0


def _by_kind(keys: Iterable[tuple[int, SideKey]]) -> dict[type[Side], list[tuple[int, int | str]]]:
    sorted_out: dict[type[Side], list[tuple[int, int | str]]] = {}
    for run_key, (kind, which) in keys:
        sorted_out.setdefault(kind, []).append((run_key, which))
    return sorted_out
