"""Which runs and jobs a batch ended, as watches tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.change import Change
from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL
from stepwell_server.store import job_ends, watches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stepwell_server.dispatch.watch_streams import AnyEnd
    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.engine.job_change import JobChange
    from stepwell_server.store.job_ends import JobEnd
    from stepwell_server.store.watches import BatchEnds, End

_READ_ENDS = 512


def has_ended(change: AnyChange) -> bool:
    """Whether a batch ended it."""
    if isinstance(change, Change):
        return change.has_ended
    return not change.is_open and change.has_changed


def end_of(change: AnyChange) -> AnyEnd:
    """The news of its end."""
    return _end_of_run(change) if isinstance(change, Change) else _end_of_job(change)


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


def portions(rows: Iterable[BatchEnds]) -> Iterator[list[BatchEnds]]:
    """Batches by the number of ends that are read at a time; a batch stays whole."""
    part: list[BatchEnds] = []
    count = 0
    for row in rows:
        part.append(row)
        count += len(row.keys)
        if count >= _READ_ENDS:
            yield part
            part, count = [], 0
    if part:
        yield part
