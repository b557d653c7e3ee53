"""What a batch writes of each run that it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server.engine.change import Change
from stepwell_server.engine.names import Births
from stepwell_server.model.concurrency import ConcurrencySlot
from stepwell_server.model.debounces import RunDebounce
from stepwell_server.model.driven import LASTING
from stepwell_server.model.runs import unpack_details
from stepwell_server.model.search_attributes import rows
from stepwell_server.model.signals import Signal
from stepwell_server.model.topics import TopicWait
from stepwell_server.store import batches
from stepwell_server.store.dispatches import StepOfRun

if TYPE_CHECKING:
    from stepwell_server.model.driven import SideKey


# Rows that go with the end of a run, by the decision on it.
_GIVEN_UP = (TopicWait, ConcurrencySlot, RunDebounce)


def collect(write: batches.Write, change: Change) -> None:
    run, key = change.run, change.run_key
    if change.is_reopened and change.stored_end is not None:
        write.reopened_runs.append((key, change.stored_end.version))
    if run is not None and (change.fresh or change.is_reopened):
        write.new_runs.append(run)
    elif run is not None:
        # A letter that came to nothing goes, and the run stays as it was.
        write.changed_runs += [(change.stored_version, run)] if run is not change.original else []
    elif change.closed_run is not None and change.has_ended:
        write.closed_runs.append(change.closed_run)
        write.ended.append(key)
        if change.original is not None and not change.fresh:
            write.gone_runs.append((key, change.original.version))
            if change.closed_run.last_signal and not _keeps_signals(change):
                write.signals_gone.append(key)
            if change.closed_run.last_step > change.closed_run.order_count:
                write.scopes_gone.append(key)
            if change.closed_run.driven:
                write.sides_gone.append(key)
    if change.touched:
        _collect_steps(write, change, key)
    write.events.extend(change.events)
    if change.fresh or change.news.notices:
        write.notices.extend(change.notices)
    if change.tasks:
        write.tasks.extend(change.tasks.values())
    if change.made:
        _collect_rest(write, change, key)


# What is written as it is, and what stands under names; then what _collect_signals looks at.
_LISTS = frozenset({"copies", "topic_copies", "mail", "mail_done"})
_MAPS = frozenset({"topic_positions", "published"})
_OF_SIGNALS = frozenset({"new_signals", "carried", "consumed", "given_back", "carried_away", "emptied"})


def _collect_rest(write: batches.Write, change: Change, key: int) -> None:
    """What most commands have none of: only what was asked for can hold anything."""
    run, made = change.run, frozenset(change.made)
    for name in _LISTS & made:
        getattr(write, name).extend(getattr(change, name))
    for name in _MAPS & made:
        getattr(write, name).extend(getattr(change, name).values())
    if "removed_steps" in made:
        write.removed_steps.extend((key, *step.identity) for step in change.removed_steps.values())
    if "dispatches" in made:
        _collect_dispatches(write, change)
    if "touched_sides" in made:
        sides = (side for side in change.touched_sides if run is not None or _outlives(change, side))
        write.sides.extend((key, side, change.sides[side]) for side in sides)
    if run is not None and "touched_scopes" in made:
        write.scopes.extend(change.scopes[path] for path in change.touched_scopes)
    if made & _OF_SIGNALS:
        _collect_signals(write, change, key)
    if "touched_attributes" in made:
        _collect_search_attributes(write, change, key)
    if "task_drops" in made:
        write.tasks_gone.extend((key, ordinal) for ordinal in change.task_drops)


def _outlives(change: Change, side: SideKey) -> bool:
    """Whether such a row of a run that has ended is written, or taken away. What it has of other kinds goes with it."""
    return side[0] in LASTING or (side[0] in _GIVEN_UP and change.sides[side] is None)


def _collect_dispatches(write: batches.Write, change: Change) -> None:
    """What became of the dispatches of its steps."""
    for step_name, is_released in change.dispatches.items():
        step = StepOfRun(change.namespace_id, change.run_id, step_name)
        if is_released:
            write.dispatches_released.append(step)
        else:
            write.dispatches_claimed.append((step, change.now))


def _collect_signals(write: batches.Write, change: Change, key: int) -> None:
    """Of a run that has ended only the ids of signals are kept, unless they have yet to go to its successor."""
    keeps_all = change.run is not None or _keeps_signals(change)
    write.signals.extend(change.new_signals if keeps_all else _ids_of(change.new_signals))
    write.carried.extend(change.carried if keeps_all else _ids_of(change.carried))
    if keeps_all:
        write.consumed.extend((key, signal.ordinal) for signal in change.consumed)
        write.given_back.extend(change.given_back.values())
    write.carried_away.extend(change.carried_away)
    write.signals_gone.extend(change.emptied)


def _collect_search_attributes(write: batches.Write, change: Change, key: int) -> None:
    present = change.search_attributes
    changed = {name: present[name] for name in change.touched_attributes if name in present}
    write.search_attributes.extend(rows(key, change.namespace_id, changed))
    if not change.fresh:
        write.search_attributes_gone.extend((key, name) for name in change.touched_attributes if name not in present)


def _ids_of(signals: list[Signal]) -> list[Signal]:
    """Those by whose ids a repeat is recognised; nobody takes them any more."""
    return [replace(signal, consumed=True) for signal in signals if signal.signal_id is not None]


def _keeps_signals(change: Change) -> bool:
    closed = change.closed_run
    return closed is not None and unpack_details(closed.details).keeps_signals


def collect_names(write: batches.Write, births: Births) -> None:
    """What a batch writes of the ids and names that new runs bear."""
    for (namespace_id, workflow_id), (found, key) in births.claims.items():
        if found is None:
            write.names.append((workflow_id, namespace_id, key))
        else:
            write.renamed.append((workflow_id, namespace_id, found, key))
    write.run_ids.extend(births.new_ids)
    write.idempotency_keys.extend(births.new_keys)
    write.served.update(births.served)


def _collect_steps(write: batches.Write, change: Change, key: int) -> None:
    renamed = change.renamed_steps if "renamed_steps" in change.made else ()
    for ordinal in change.touched:
        step = change.steps.get(ordinal)
        stored = ordinal in change.loaded_steps
        if step is not None:
            is_anew = ordinal in renamed
            (write.changed_steps if stored and not is_anew else write.new_steps).append(step)
            write.gone_steps += [(key, ordinal)] if stored and is_anew else []
            continue
        if ordinal in change.closed:
            write.closed_steps.append(change.closed[ordinal])
        if stored:
            write.gone_steps.append((key, ordinal))
