"""Which runs and jobs a batch ended, and what else it did to runs, as watches tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.change import Change
from stepwell_server.ids import pack
from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL
from stepwell_server.store import job_ends, watches
from stepwell_server.store.notices import notice_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stepwell_server.dispatch.watch_streams import AnyEnd
    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.engine.job_change import JobChange
    from stepwell_server.store.job_ends import JobEnd
    from stepwell_server.store.notices import Notice
    from stepwell_server.store.watches import BatchNews, End

_READ_NEWS = 512


def has_ended(change: AnyChange) -> bool:
    """Whether a batch ended it."""
    if isinstance(change, Change):
        return change.has_ended
    return not change.is_open and change.has_changed


def end_of(change: AnyChange) -> AnyEnd:
    """The news of its end."""
    return _end_of_run(change) if isinstance(change, Change) else _end_of_job(change)


def notices_of(change: AnyChange) -> dict[int, Notice]:
    """What else is told of it, by the numbers of the events that say so."""
    if not isinstance(change, Change) or not (told := set(change.notices)):
        return {}
    run = change.run or change.closed_run
    if run is None:
        raise AssertionError("a run is open or closed")
    numbered = ((pack(event.run_key, event.number), event) for event in change.events)
    return {number: notice_of(run, event) for number, event in numbered if number in told}


def _end_of_run(change: Change) -> End:
    run = change.closed_run
    if run is None:
        raise AssertionError("an ended run is closed")
    event = next((event for event in reversed(change.events) if event.number == run.end_event), None)
    if event is None:
        return watches.end_of(run, NULL, None)
    attributes = unpack_attributes(event.attributes)
    return watches.end_of(run, payload_of(event.payload_kind, event.payload, attributes), attributes.failure)


def _end_of_job(change: JobChange) -> JobEnd:
    if change.closed_job is None:
        raise AssertionError("an ended job is closed")
    return job_ends.end_of(change.closed_job, change.result)


def portions(rows: Iterable[BatchNews]) -> Iterator[list[BatchNews]]:
    """Batches by how much of them is read at a time; a batch stays whole."""
    part: list[BatchNews] = []
    count = 0
    for row in rows:
        part.append(row)
        count += len(row.keys) + len(row.notices or ())
        if count >= _READ_NEWS:
            yield part
            part, count = [], 0
    if part:
        yield part
