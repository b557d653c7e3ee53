"""Requests that a batch recognises as repeats, and the answers that it records with their changes.

The record is looked for before anything else, by the caller's id alone: by then a workflow id may mean another run. Two
replicas that decide on the same request at once meet at the record's key, and the later one tries its batch again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server import errors, refusals
from stepwell_server.engine.jobs import StartedJob
from stepwell_server.engine.starts import Started
from stepwell_server.model.requests import Asked, Recorded, RequestKey, answer_of, record
from stepwell_server.store import batch_reads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.engine.committer.waiting import Entry
    from stepwell_server.store.connection import Connection


class Recalling:
    """See the module. `made` are the answers to be recorded."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self._known: dict[RequestKey, Recorded] = {}
        self.made: list[Recorded] = []

    async def recall(self, entries: Sequence[Entry]) -> list[object]:
        """For each entry what its request was answered before, a refusal if it is another one, or None."""
        keys = {entry.asked.key for entry in entries if entry.asked is not None}
        if keys:
            found = await batch_reads.read_requests(self._connection, sorted(keys))
            self._known = {(row.request_id, row.namespace_id, row.method): row for row in found}
        return [self.answer(entry.asked) for entry in entries] if self._known else [None] * len(entries)

    def answer(self, asked: Asked | None) -> object | None:
        """What the request was answered before, also in this batch."""
        known = self._known.get(asked.key) if asked is not None else None
        if asked is None or known is None:
            return None
        if known.body_hash != asked.body_hash:
            return errors.RequestIdReused(method=asked.method, request_id=asked.request_id)
        return answer_of(known, asked)

    def note(self, asked: Asked | None, answer: object) -> None:
        """Keeps what the request is answered, unless that is found by itself.

        A refusal has changed nothing, and its repeat is decided anew; what a start has made tells of its request.
        """
        is_made = isinstance(answer, Started | StartedJob) and answer.started
        if asked is not None and not isinstance(answer, refusals.Refusal) and not is_made:
            self._known[asked.key] = row = record(asked, answer, self._now)
            self.made.append(row)
