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

import msgspec

from stepwell_server import errors, refusals
from stepwell_server.model.api_keys import hash_of, prefix_of
from stepwell_server.store import api_keys

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.clock import Clock
    from stepwell_server.model.api_keys import SeenKey
    from stepwell_server.store.database import Database

_LAST_WORDS_SECONDS = 5.0
_MOST_KNOWN = 10_000
_MOST_WANTED = 1_000
_MOST_AT_ONCE = 256

Wrong = type[errors.ApiKeyUnknown] | type[errors.ApiKeyRevoked] | type[errors.ApiKeyExpired]


class Caller(msgspec.Struct):
    """Whose call it is: a key that holds. `namespace` is the only one it may use, None if it may use all."""

    key_id: UUID
    prefix: str
    key_hash: str
    role: int
    namespace: str | None
    until: float
    """When it must be looked at again, by the monotonic clock."""
    is_used: bool = False


class _Wrong(NamedTuple):
    kind: Wrong
    until: float


class OpenStream:
    """A stream of a key's, in the task that serves it. `refusal` is why it was ended.

    An interruption while a message is on its way (`is_sending`) would leave its reader without a word: it waits until
    that message is taken, though not for ever.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.refusal: refusals.Refusal | None = None
        self.is_sending = False
        self._task = asyncio.current_task()

    def end(self, refusal: refusals.Refusal) -> None:
        """Interrupts the task, once."""
        if self.refusal is not None or self._task is None:
            return
        self.refusal = refusal
        if self.is_sending:
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._cut)
        else:
            self._task.cancel()

    def _cut(self) -> None:
        if self.is_sending and self._task is not None:
            self._task.cancel()

    def was_ended(self) -> bool:
        """Whether the interruption that came is this one, and no other besides."""
        return self.refusal is not None and self._task is not None and self._task.uncancel() == 0


class KnownKeys:
    """See the module."""

    def __init__(self, database: Database, clock: Clock, seconds: float) -> None:
        self._database = database
        self._clock = clock
        self._seconds = seconds
        self._known: dict[str, Caller] = {}
        self._wrong: dict[str, _Wrong] = {}
        self._wanted: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._streams: dict[str, set[OpenStream]] = {}
        self._used: set[UUID] = set()

    def known(self, secret: str) -> Caller | None:
        """Who calls with that key, or None if it must be looked for. Refuses if it is known to be wrong."""
        return self._find(hash_of(secret))

    async def learn(self, secret: str) -> Caller:
        """The same, of the database. Refuses with API_KEY_UNKNOWN, API_KEY_REVOKED, API_KEY_EXPIRED, QUEUE_FULL."""
        key_hash = hash_of(secret)
        while True:
            found = self._find(key_hash)
            if found is not None:
                return found
            # One caller's end must not be another's.
            await asyncio.shield(self._want(key_hash, prefix_of(secret)))

    def _find(self, key_hash: str) -> Caller | None:
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
        self._known[key_hash] = Caller(key.key_id, key.prefix, key_hash, key.role, key.namespace, asked + seconds)

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

    def open_stream(self, caller: Caller) -> OpenStream:
        """Notes a stream, in the task that serves it."""
        stream = OpenStream(caller)
        self._streams.setdefault(caller.key_hash, set()).add(stream)
        return stream

    def close_stream(self, stream: OpenStream) -> None:
        """Forgets it."""
        key_hash = stream.caller.key_hash
        left = self._streams.get(key_hash, set())
        left.discard(stream)
        if not left:
            self._streams.pop(key_hash, None)

    async def look_again(self) -> int:
        """Looks again at keys that were used lately or have streams; ends the streams of those that hold no more.

        While the database is away nothing is known to have changed, and streams stay. Raises Lost.
        """
        again = {key_hash: caller for key_hash, caller in self._known.items() if caller.is_used}
        for key_hash, streams in self._streams.items():
            again[key_hash] = next(iter(streams)).caller
            self._used.add(again[key_hash].key_id)
        callers = list(again.values())
        for start in range(0, len(callers), _MOST_AT_ONCE):
            part = callers[start : start + _MOST_AT_ONCE]
            await self._look({caller.key_hash: caller.prefix for caller in part})
        self._end_streams(list(again))
        return len(again)

    def _end_streams(self, hashes: Collection[str]) -> None:
        for key_hash in hashes:
            wrong = self._wrong.get(key_hash)
            if wrong is not None and key_hash not in self._known:
                for stream in list(self._streams.get(key_hash, ())):
                    stream.end(wrong.kind())

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


def _make_room(kept: dict[str, Caller] | dict[str, _Wrong]) -> None:
    """The oldest makes place."""
    if len(kept) >= _MOST_KNOWN:
        del kept[next(iter(kept))]
