"""What this replica knows of API keys, so that a call costs no question: for seconds, also that nobody has a key.

A key is looked for by its prefix, which is no secret, and told by its hash, compared in constant time. Keys that are
wanted at the same time are looked for together, one question after another: a flood of wrong keys costs the database no
more than that, and does not push out the keys that are known.

    known      hash -> caller, or what is wrong    for `seconds` from before it was asked
    streams    hash -> streams                     looked at again every half of that; ended when the key has ended
"""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from stepwell_server import errors
from stepwell_server.dispatch.callers import Caller, Proof
from stepwell_server.model.api_keys import hash_of, prefix_of
from stepwell_server.store import api_keys

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.callers import OpenStreams
    from stepwell_server.model.api_keys import SeenKey
    from stepwell_server.store.database import Database

_MOST_KNOWN = 10_000
_MOST_WANTED = 1_000
_MOST_AT_ONCE = 256

Wrong = type[errors.ApiKeyUnknown] | type[errors.ApiKeyRevoked] | type[errors.ApiKeyExpired]


class KeyCaller(Caller, kw_only=True):
    """A key that holds. Its handle is its hash."""

    key_id: UUID
    until: float
    """When it must be looked at again, by the monotonic clock."""
    is_used: bool = False


class _Wrong(NamedTuple):
    kind: Wrong
    until: float


class KnownKeys:
    """See the module."""

    def __init__(self, database: Database, clock: Clock, seconds: float, streams: OpenStreams) -> None:
        self._database = database
        self._clock = clock
        self._seconds = seconds
        self._streams = streams
        self._known: dict[str, KeyCaller] = {}
        self._wrong: dict[str, _Wrong] = {}
        self._wanted: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._used: set[UUID] = set()

    def known(self, secret: str) -> KeyCaller | None:
        """Who calls with that key, or None if it must be looked for. Refuses if it is known to be wrong."""
        return self._find(hash_of(secret))

    async def learn(self, secret: str) -> KeyCaller:
        """The same, of the database. Refuses with API_KEY_UNKNOWN, API_KEY_REVOKED, API_KEY_EXPIRED, QUEUE_FULL."""
        key_hash = hash_of(secret)
        while True:
            found = self._find(key_hash)
            if found is not None:
                return found
            # One caller's end must not be another's.
            await asyncio.shield(self._want(key_hash, prefix_of(secret)))

    def _find(self, key_hash: str) -> KeyCaller | None:
        now = time.monotonic()
        caller = self._known.get(key_hash)
        if caller is not None and caller.until > now:
            caller.is_used = True
            return caller
        wrong = self._wrong.get(key_hash)
        if wrong is not None and wrong.until > now:
            raise wrong.kind
        return None

    # --- looking ----------------------------------------------------------------------------------------------------

    def _want(self, key_hash: str, prefix: str) -> asyncio.Future[None]:
        if key_hash in self._wanted:
            return self._wanted[key_hash][1]
        if len(self._wanted) >= _MOST_WANTED:
            raise errors.QueueFull(queue="api_keys")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may be left to hear of a failure.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._wanted[key_hash] = (prefix, future)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_for_all())
        return future

    async def _look_for_all(self) -> None:
        while self._wanted:
            wanted = {key_hash: self._wanted[key_hash] for key_hash in list(self._wanted)[:_MOST_AT_ONCE]}
            try:
                await self._look({key_hash: prefix for key_hash, (prefix, _) in wanted.items()})
            except Exception as error:  # noqa: BLE001 - it is the answer of those who wait
                # They hear of it as of any other question that could not be asked.
                failed: BaseException | None = error.__cause__ or error
            else:
                failed = None
            for key_hash, (_, future) in wanted.items():
                del self._wanted[key_hash]
                if future.done():
                    continue
                if failed is not None:
                    future.set_exception(failed)
                else:
                    future.set_result(None)

    async def _look(self, prefixes: dict[str, str]) -> None:
        """Asks the database about keys by their hashes, and notes what it says."""
        asked = time.monotonic()
        rows = await api_keys.own_by_prefix(self._database, set(prefixes.values()))
        by_prefix: dict[str, list[tuple[SeenKey, str]]] = {}
        for row in rows:
            by_prefix.setdefault(row[0].prefix, []).append(row)
        for key_hash, prefix in prefixes.items():
            same = (key for key, kept in by_prefix.get(prefix, ()) if hmac.compare_digest(kept, key_hash))
            self._note(key_hash, next(same, None), asked)

    def _note(self, key_hash: str, key: SeenKey | None, asked: float) -> None:
        wrong = self._wrong_with(key)
        if key is None or wrong is not None:
            self._known.pop(key_hash, None)
            _make_room(self._wrong)
            self._wrong[key_hash] = _Wrong(wrong or errors.ApiKeyUnknown, asked + self._seconds)
            return
        seconds = self._seconds
        if key.expire_time is not None:
            seconds = min(seconds, (key.expire_time - self._clock.now()).total_seconds())
        self._wrong.pop(key_hash, None)
        former = self._known.pop(key_hash, None)
        if former is not None and former.is_used:
            self._used.add(former.key_id)
        _make_room(self._known)
        self._known[key_hash] = KeyCaller(
            proof=Proof.KEY,
            name=key.prefix,
            owner=f"key {key.key_id}",
            handle=key_hash,
            role=key.role,
            namespace=key.namespace,
            task_queues=None if key.task_queues is None else tuple(key.task_queues),
            expire_time=key.expire_time,
            key_id=key.key_id,
            until=asked + seconds,
        )

    def _wrong_with(self, key: SeenKey | None) -> Wrong | None:
        """What is wrong with a key. A namespace that was deleted took its keys along."""
        if key is None or key.namespace == "":
            return errors.ApiKeyUnknown
        if key.revoke_time is not None:
            return errors.ApiKeyRevoked
        if key.expire_time is not None and key.expire_time <= self._clock.now():
            return errors.ApiKeyExpired
        return None

    # --- streams, and what is looked at again ------------------------------------------------------------------------

    async def look_again(self) -> int:
        """Looks again at keys that were used lately or have streams; ends the streams of those that hold no more.

        While the database is away nothing is known to have changed, and streams stay. Raises Lost.
        """
        again = {key_hash: caller for key_hash, caller in self._known.items() if caller.is_used}
        for caller in self._streams.callers():
            if isinstance(caller, KeyCaller):
                again[caller.handle] = caller
                self._used.add(caller.key_id)
        callers = list(again.values())
        for start in range(0, len(callers), _MOST_AT_ONCE):
            part = callers[start : start + _MOST_AT_ONCE]
            await self._look({caller.handle: caller.name for caller in part})
        self._end_streams(list(again))
        return len(again)

    def _end_streams(self, hashes: Collection[str]) -> None:
        for key_hash in hashes:
            wrong = self._wrong.get(key_hash)
            if wrong is not None and key_hash not in self._known:
                self._streams.end(key_hash, wrong.kind)

    def forget(self) -> None:
        """Forgets all that is known: something has changed."""
        for caller in self._known.values():
            if caller.is_used:
                self._used.add(caller.key_id)
        self._known.clear()
        self._wrong.clear()

    async def note_use(self) -> None:
        """Writes down which keys were used since the last time. Raises Lost."""
        used = self._used | {caller.key_id for caller in self._known.values() if caller.is_used}
        self._used = set()
        if not used:
            return
        try:
            await api_keys.note_use(self._database, sorted(used), self._clock.now())
        except Exception:
            self._used |= used
            raise


def _make_room(kept: dict[str, KeyCaller] | dict[str, _Wrong]) -> None:
    """The oldest makes place."""
    if len(kept) >= _MOST_KNOWN:
        del kept[next(iter(kept))]
