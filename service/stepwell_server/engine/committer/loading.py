"""Loading the runs of a batch's commands, and the parts of them that decisions want.

A statement a table, whatever the number of commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.change import Change
from stepwell_server.engine.committer import lookups
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.names import Births
from stepwell_server.engine.signal_change import Slice
from stepwell_server.engine.wishes import EVERY_SIGNAL, Missing
from stepwell_server.model.steps import Kind, Step
from stepwell_server.model.topics import stripe_of
from stepwell_server.model.user_tasks import UserTask
from stepwell_server.store import batch_reads, concurrency, recall, search_attributes, sides, topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from stepwell_server.model.concurrency import Line
    from stepwell_server.model.driven import SideKey
    from stepwell_server.model.search_attributes import AttributeValue
    from stepwell_server.model.signals import Signal
    from stepwell_server.store.connection import Connection

MOST_CARRIED, MOST_CARRIED_BYTES = 256, 4 * 1024 * 1024
# Of a name. Who needs more asks again.
SIGNALS_AT_ONCE = 256
# Of a topic, for one wait. Who needs more asks again, and gets many.
EVENTS_AT_ONCE, MORE_AT_ONCE = 4, 256


async def open_changes(  # noqa: PLR0917 - what a Change is made of
    connection: Connection,
    keys: Iterable[int],
    changes: dict[int, Change],
    births: Births,
    now: datetime,
    limits: Limits,
) -> tuple[set[int], set[int]]:
    """Locks runs and opens a Change for each. Answers the keys locked elsewhere, and those that are nowhere."""
    held: set[int] = set()
    nowhere = {key for key in keys if key not in changes}
    # A run that is opened again between the looks at the open and at the closed ones is found by the second round.
    for _ in range(2):
        if not nowhere:
            break
        locked = await _look(connection, nowhere, changes, births, now, limits)
        held |= locked
        nowhere = {key for key in nowhere if key not in locked and key not in changes}
    return held, nowhere


async def _look(  # noqa: PLR0917 - what a Change is made of
    connection: Connection,
    wanted: Iterable[int],
    changes: dict[int, Change],
    births: Births,
    now: datetime,
    limits: Limits,
) -> set[int]:
    """Opens changes for those that are there and not locked elsewhere; answers those that are."""
    for run in await batch_reads.lock_runs(connection, wanted):
        changes[run.run_key] = Change(now=now, namespace="", limits=limits, run=run, births=births)
    absent = [key for key in wanted if key not in changes]
    if not absent:
        return set()
    locked = await batch_reads.open_keys(connection, absent)
    for closed in await batch_reads.read_closed_runs(connection, [key for key in absent if key not in locked]):
        changes[closed.run_key] = Change(
            now=now, namespace="", limits=limits, run=None, closed_run=closed, births=births
        )
    return locked


async def load_parts(connection: Connection, wanted: Sequence[tuple[Change, Missing]], births: Births) -> None:
    """Loads the parts of runs that decisions want and notes that they are known."""
    wanted = [(change, missing) for change, missing in wanted if not change.fresh or _of_others(missing)]
    asked = {part for _, missing in wanted for part in missing.parts}
    if asked & _OF_STEPS:
        await _load_steps(connection, wanted)
    if asked & _OF_SIGNALS:
        await _load_signals(connection, wanted)
    if "sides" in asked:
        await _load_sides(connection, wanted)
    if "topics" in asked:
        await _load_topics(connection, wanted)
    if "search_attributes" in asked:
        await _load_search_attributes(connection, wanted)
    if "lines" in asked:
        await _load_lines(connection, {line for _, missing in wanted for line in missing.lines}, births)
    if asked & _SINGLE_ROWS:
        await _load_rows(connection, wanted)
    if "names" in asked:
        await lookups.look_up_names(connection, births, {name for _, missing in wanted for name in missing.names})
    if "user_tasks" in asked:
        given = {each for _, missing in wanted for each in missing.user_tasks}
        await lookups.look_up_user_tasks(connection, births, given)
    for change, missing in wanted:
        change.known.add(missing)


def is_read(change: Change, missing: Missing) -> bool:
    """Whether anything of it must be read, rather than be found among the open steps that are known."""
    if not missing.ordinals <= change.steps.keys():
        return True
    if missing.open_steps and _has_more_steps(change):
        return True
    return any(part not in _KNOWN_STEPS for part in missing.parts)


_KNOWN_STEPS = frozenset({"ordinals", "open_steps"})
_OF_STEPS = frozenset({"ordinals", "identities", "open_steps", "closed_steps", "waits"})
_OF_SIGNALS = frozenset({"received", "signals", "signal_ids", "carried"})
_SINGLE_ROWS = frozenset({"scopes", "events", "heartbeats"})


async def _load_rows(connection: Connection, wanted: Sequence[tuple[Change, Missing]]) -> None:
    """Branches, events, heartbeats: single rows of tables of their own."""
    by_key = {change.run_key: change for change, _ in wanted}
    scopes = [(change.run_key, scope) for change, missing in wanted for scope in missing.scopes - change.known.scopes]
    if scopes:
        for scope in await batch_reads.read_scopes(connection, scopes):
            by_key[scope.run_key].scopes.setdefault(scope.scope, scope)
    events = [(change.run_key, number) for change, missing in wanted for number in missing.events]
    if events:
        for event in await recall.read_events(connection, events):
            by_key[event.run_key].seen_events[event.number] = event
    beats = [(change.run_key, ordinal) for change, missing in wanted for ordinal in missing.heartbeats]
    if beats:
        for key, ordinal, time, details in await batch_reads.read_heartbeats(connection, beats):
            by_key[key].heartbeats[ordinal] = (time, details)


def _of_others(missing: Missing) -> bool:
    """Whether what is missing does not belong to the run, so that a new one does not know it either."""
    return bool(missing.names or missing.signal_ids or missing.topics or missing.user_tasks)


async def _load_steps(connection: Connection, wanted: Sequence[tuple[Change, Missing]]) -> None:
    by_key = {change.run_key: change for change, _ in wanted}
    every = {change.run_key for change, missing in wanted if missing.open_steps and _has_more_steps(change)}
    opened: list[Step] = []
    if every:
        opened = await batch_reads.read_open_steps(connection, sorted(every))
        for step in opened:
            by_key[step.run_key].load_step(step)
    ordinals = [
        (change.run_key, ordinal)
        for change, missing in wanted
        for ordinal in missing.ordinals - change.known.ordinals
        if ordinal not in change.steps
    ]
    identities = [
        (change.run_key, *identity)
        for change, missing in wanted
        for identity in missing.identities - change.known.identities
    ]
    found = await batch_reads.read_steps(connection, ordinals) if ordinals else []
    if identities:
        found += await batch_reads.read_steps_named(connection, identities)
    for each in found:
        if isinstance(each, Step):
            by_key[each.run_key].load_step(each)
            opened.append(each)
        else:
            by_key[each.run_key].load_closed_step(each)
    ended = {change.run_key for change, missing in wanted if missing.closed_steps and not change.known.closed_steps}
    if ended:
        for closed in await batch_reads.read_all_closed_steps(connection, sorted(ended)):
            by_key[closed.run_key].load_closed_step(closed)
    await _load_user_tasks(connection, by_key, opened)
    waits = [
        (change.run_key, name)
        for change, missing in wanted
        if change.run is not None and change.run.open_steps and not change.known.open_steps
        for name in missing.waits - change.known.waits
    ]
    if waits:
        for step in await batch_reads.read_steps_waiting(connection, waits):
            by_key[step.run_key].load_step(step)


async def _load_user_tasks(connection: Connection, by_key: dict[int, Change], steps: Iterable[Step]) -> None:
    """The rows of open steps that are tasks for people, which go with whatever becomes of the step."""
    keys: list[tuple[int, SideKey]] = [
        (step.run_key, (UserTask, step.ordinal)) for step in steps if step.kind == Kind.USER_TASK
    ]
    if keys:
        for run_key, key, row in await sides.read(connection, keys):
            by_key[run_key].load_side(key, row)


async def _load_sides(connection: Connection, wanted: Sequence[tuple[Change, Missing]]) -> None:
    by_key = {change.run_key: change for change, _ in wanted}
    keys = [(change.run_key, key) for change, missing in wanted for key in missing.sides - change.known.sides]
    if keys:
        for run_key, key, row in await sides.read(connection, keys):
            by_key[run_key].load_side(key, row)


async def _load_topics(connection: Connection, wanted: Sequence[tuple[Change, Missing]]) -> None:
    """How topics look to waits that begin, but for those whose lock somebody has: see `topics.hold`."""
    asked = {(change.run_key, name): change for change, missing in wanted for name in missing.topics}
    if not asked:
        return
    stripes = {place: stripe_of(change.namespace_id, place[1]) for place, change in asked.items()}
    held = await topics.hold(connection, sorted(set(stripes.values())))
    asked = {place: change for place, change in asked.items() if stripes[place] in held}
    looks: list[tuple[int, str, int, int]] = []
    for (_, name), change in asked.items():
        known = change.topics.get(name)
        after = known.kept[-1].number if known is not None and known.kept else 0
        looks.append((change.namespace_id, name, change.chain_key, after))
    if looks:
        most = MORE_AT_ONCE if any(after for *_, after in looks) else EVENTS_AT_ONCE
        views = await topics.read(connection, looks, next(iter(asked.values())).now, most)
        for ((_, name), change), view in zip(asked.items(), views, strict=True):
            change.load_topic(name, view)


async def _load_lines(connection: Connection, lines: Iterable[Line], births: Births) -> None:
    """How many slots of lines are free, but for those whose lock somebody has: see `concurrency.hold`."""
    wanted = sorted(line for line in lines if line not in births.free_slots)
    held = await concurrency.hold(connection, wanted) if wanted else []
    if held:
        births.free_slots.update(dict.fromkeys(held, 0))
        births.free_slots.update({view.line: view.free for view in await concurrency.read_lines(connection, held)})


async def _load_search_attributes(connection: Connection, wanted: Sequence[tuple[Change, Missing]]) -> None:
    """The attributes of runs, but for those of ended ones whose rows are locked elsewhere: a batch locks them here."""
    asked = {
        change.run_key: change
        for change, missing in wanted
        if missing.search_attributes and not change.known.search_attributes
    }
    if not asked:
        return
    ended = sorted(key for key, change in asked.items() if change.original is None)
    held = await search_attributes.hold_closed(connection, ended) if ended else set()
    keys = [key for key in sorted(asked) if key in held or asked[key].original is not None]
    found: dict[int, dict[str, AttributeValue]] = {key: {} for key in keys}
    for row in await search_attributes.read(connection, keys) if keys else ():
        found[row.run_key][row.name] = row.value
    for key, values in found.items():
        asked[key].load_search_attributes(values)


def _has_more_steps(change: Change) -> bool:
    return change.run is not None and len(change.steps) < change.run.open_steps


async def _load_received(connection: Connection, by_key: dict[int, Change], keys: Sequence[int]) -> None:
    """All signals that runs ever got, and which of them nobody has taken."""
    for signal in await batch_reads.read_received_signals(connection, keys):
        by_key[signal.run_key].received.append(signal)
    kept: dict[tuple[int, str], list[Signal]] = {}
    for signal in await batch_reads.read_kept_signals(connection, keys):
        if signal.ordinal > by_key[signal.run_key].known.signals.get(signal.name, 0):
            kept.setdefault((signal.run_key, signal.name), []).append(signal)
    for (run_key, name), signals in kept.items():
        by_key[run_key].load_signals(name, signals, EVERY_SIGNAL)


async def _load_signals(connection: Connection, wanted: Sequence[tuple[Change, Missing]]) -> None:
    by_key = {change.run_key: change for change, _ in wanted}
    received = sorted({change.run_key for change, missing in wanted if missing.received and not change.known.received})
    if received:
        await _load_received(connection, by_key, received)
    after: dict[tuple[int, str], int] = {}
    for change, missing in wanted:
        for name in missing.signals if change.run is not None else ():
            known = change.known.signals.get(name, 0)
            if not change.had_signals:
                change.load_signals(name, [], EVERY_SIGNAL)
            elif known < EVERY_SIGNAL:
                after[change.run_key, name] = known
    if after:
        places = [(*place, ordinal) for place, ordinal in after.items()]
        found: dict[tuple[int, str], list[Signal]] = {place: [] for place in after}
        for signal in await batch_reads.read_signals(connection, places, SIGNALS_AT_ONCE):
            found[signal.run_key, signal.name].append(signal)
        for (key, name), signals in found.items():
            through = signals[-1].ordinal if len(signals) == SIGNALS_AT_ONCE else EVERY_SIGNAL
            by_key[key].load_signals(name, signals, through)
    asking: dict[tuple[int, str], list[Change]] = {}
    for change, missing in wanted:
        for signal_id in missing.signal_ids - change.known.signal_ids if change.had_signals else ():
            asking.setdefault((change.chain_key, signal_id), []).append(change)
    if asking:
        for signal in await batch_reads.read_signal_ids(connection, list(asking)):
            if signal.signal_id is not None:
                for change in asking[signal.chain_key, signal.signal_id]:
                    change.signal_ids.setdefault(signal.signal_id, signal)
    await _load_slices(connection, wanted)


async def _load_slices(connection: Connection, wanted: Sequence[tuple[Change, Missing]]) -> None:
    """Signals that go to the next run of a chain: as many as may be copied in one batch."""
    keys = sorted({key for change, missing in wanted if change.had_signals for key in missing.carried})
    if not keys:
        return
    found: dict[int, list[tuple[Signal, int]]] = {key: [] for key in keys}
    for signal, size in await batch_reads.read_left_signals(connection, keys, MOST_CARRIED + 1):
        found[signal.run_key].append((signal, size))
    for change, missing in wanted:
        for key in missing.carried & found.keys():
            change.slices[key] = _slice(found[key])


def _slice(found: Sequence[tuple[Signal, int]]) -> Slice:
    signals: list[Signal] = []
    total = 0
    for signal, size in found:
        total += size
        if signals and (total > MOST_CARRIED_BYTES or len(signals) == MOST_CARRIED):
            break
        signals.append(signal)
    return Slice(sorted(signals, key=lambda each: each.ordinal), has_more=len(signals) < len(found))
