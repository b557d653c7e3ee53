"""What the ids and names mean that a batch's commands give: a statement a table, whatever the number of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from stepwell_server import errors, refusals
from stepwell_server.engine.names import GONE, Births, Latest
from stepwell_server.ids import MAIN
from stepwell_server.store import batch_reads, dispatches, run_definitions, sides

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell_server.engine.starts import StartRun
    from stepwell_server.model.runs import RunRef
    from stepwell_server.store.connection import Connection, Row

# What resolving a reference came to: a key, or why there is none.
Resolved = int | refusals.Refusal
_NO_ID = UUID(int=0)


async def look_up_starts(connection: Connection, births: Births, starts: Sequence[StartRun]) -> None:
    """Finds out which of the ids and names that starts give are borne already."""
    ids: dict[tuple[UUID, int | None], None] = {}
    names: dict[tuple[int, str], None] = {}
    for start in starts:
        if start.new.run_id is not None:
            ids[start.new.run_id, start.new.namespace_id] = None
        if start.new.workflow_id:
            names[start.new.namespace_id, start.new.workflow_id] = None
    # Names first: both are committed together, so that a run whose name is found is found by its id, too.
    await look_up_names(connection, births, names)
    await look_up_keys(connection, births, starts)
    await look_up_debounces(connection, births, starts)
    if ids:
        wanted = list(ids)
        stored = await batch_reads.find_run_ids(connection, wanted)
        for (run_id, namespace_id), found in zip(wanted, stored, strict=True):
            if namespace_id is not None:
                births.ids[namespace_id, run_id] = found[0] if found else None


async def look_up_debounces(connection: Connection, births: Births, starts: Sequence[StartRun]) -> None:
    """Finds out which runs wait until no start of the keys comes that starts give."""
    wanted = list(dict.fromkeys(place for start in starts if (place := start.new.debounce_place) is not None))
    if wanted:
        found = await sides.find_debounces(connection, wanted)
        births.debounced |= {place: found.get(place) for place in wanted}


async def look_up_keys(connection: Connection, births: Births, starts: Sequence[StartRun]) -> None:
    """Finds out for which runs the idempotency keys that starts give are registered."""
    wanted = list(dict.fromkeys(place for start in starts if (place := start.new.key_place) is not None))
    if wanted:
        births.keyed |= zip(wanted, await dispatches.find_keys(connection, wanted), strict=True)


async def absent_namespaces(connection: Connection, spaces: Iterable[tuple[int, str]]) -> dict[int, bool]:
    """Holds the namespaces of starts until the batch ends. Answers those not to be held, and whether they are there.

    What is in a namespace keeps it from being deleted, so that only starts have to ask. `main` always exists.
    """
    asked = {namespace_id for namespace_id, name in spaces if name != MAIN}
    absent = sorted(asked - await batch_reads.hold_namespaces(connection, sorted(asked))) if asked else []
    there = await batch_reads.find_namespaces(connection, absent) if absent else ()
    return {namespace_id: namespace_id in there for namespace_id in absent}


async def hold_definitions(connection: Connection, births: Births, named: Iterable[run_definitions.Named]) -> set[int]:
    """Finds the definitions that starts name, and holds them until the batch ends. Answers those not to be held."""
    wanted = list(dict.fromkeys(named))
    found = await run_definitions.find(connection, wanted)
    births.definitions = {each: found.get(each) for each in wanted}
    keys = {followed.key for followed in found.values()}
    return keys - await run_definitions.hold(connection, sorted(keys)) if keys else set()


async def look_up_names(connection: Connection, births: Births, names: Iterable[tuple[int, str]]) -> None:
    """Finds the latest runs of workflow ids."""
    wanted = [name for name in names if name not in births.names]
    if not wanted:
        return
    asked: list[tuple[str, int | None]] = [(workflow_id, namespace_id) for namespace_id, workflow_id in wanted]
    for name, found in zip(wanted, await batch_reads.find_workflow_ids(connection, asked), strict=True):
        births.names[name] = _latest(found[0]) if found else None


def _latest(row: Row) -> Latest:
    return Latest(row["run_key"], row["run_id"] or _NO_ID, row["phase"] or GONE, row["turn"])


async def resolve(connection: Connection, refs: Sequence[RunRef]) -> list[Resolved]:
    """The keys of the runs that references mean."""
    resolved: list[Resolved | None] = [ref.run_key for ref in refs]
    by_id = [place for place, ref in enumerate(refs) if ref.run_key is None and ref.run_id is not None]
    by_name = [place for place, ref in enumerate(refs) if ref.run_key is None and ref.run_id is None]
    if by_id:
        ids = [(refs[place].run_id, refs[place].namespace_id) for place in by_id]
        found = await batch_reads.find_run_ids(connection, [(i, n) for i, n in ids if i is not None])
        for place, rows in zip(by_id, found, strict=True):
            resolved[place] = _one_of(refs[place], [row.run_key for row in rows])
    if by_name:
        named = await batch_reads.find_workflow_ids(
            connection, [(refs[place].workflow_id, refs[place].namespace_id) for place in by_name]
        )
        for place, records in zip(by_name, named, strict=True):
            resolved[place] = _one_of(refs[place], [record["run_key"] for record in records])
    return [
        found if found is not None else errors.RunNotFound(namespace=ref.namespace, run_id=ref.label)
        for ref, found in zip(refs, resolved, strict=True)
    ]


def _one_of(ref: RunRef, keys: list[int]) -> Resolved | None:
    if len(keys) > 1:
        return errors.RunAmbiguous(run_id=ref.label)
    return keys[0] if keys else None


async def look_up_user_tasks(connection: Connection, births: Births, wanted: Iterable[tuple[int, UUID]]) -> None:
    """Finds out which ids are given to tasks for people."""
    asked = [each for each in wanted if each not in births.user_tasks]
    if asked:
        given = await sides.find_user_tasks(connection, asked)
        births.user_tasks.update({each: each in given for each in asked})
