"""Hints among replicas: something may be worth a look. A lost one costs latency only, since polling stands behind.

NOTIFY takes a lock that lets one commit at a time through, so no writing transaction carries one: a replica's hints
gather and go out together, on a connection of their own. A replica does not hear its own.

Each NOTIFY is a commit that is flushed to disk. So a replica that has not heard of another for a while sends none, but
a sign of its own now and then, which an other answers at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import structlog

from stepwell_server.store.faults import Conflict, Lost, Rejected
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

HINTS = load("hints")

_PAUSE_SECONDS = 0.005
_PROBE_SECONDS = 5.0
_SILENT_PROBES = 6
# Postgres takes less than 8,000 bytes.
_MOST_BYTES = 7_000
_MOST_WAITING = 5_000

_log = structlog.get_logger("stepwell.hints")


class Message(msgspec.Struct, array_like=True):
    """What one NOTIFY carries; without hints it is a sign that its sender is there."""

    sender: str
    hints: list[tuple[str, object]]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class Hints:
    """See the module."""

    def __init__(self, database: Database, schema: str) -> None:
        self._database = database
        self._channel = f"stepwell_{hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()}"
        self._sender = uuid4().hex[:12]
        self._callbacks: list[Callable[[str, object], None]] = []
        # As they will be sent; alike ones are one.
        self._waiting: dict[tuple[str, bytes], object] = {}
        self._has_some = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._listening = asyncio.Event()
        self._company = asyncio.Event()
        self._silence = 0  # in probes
        self.backend = 0

    def publish(self, kind: str, data: object = None) -> None:
        """Tells the other replicas, soon, if there are any. Never waits; what is too much or too long is left out."""
        if not self._company.is_set():
            return
        packed = _encode(data)
        if len(packed) + len(kind) < _MOST_BYTES and len(self._waiting) < _MOST_WAITING:
            self._waiting[kind, packed] = data
            self._has_some.set()

    def subscribe(self, callback: Callable[[str, object], None]) -> None:
        """Calls with the kind and data of every hint of another replica. Must not block."""
        self._callbacks.append(callback)

    def start(self) -> None:
        """Begins to listen and to send."""
        if not self._tasks:
            self._tasks = [_named(self._listen(), "hints-listen"), _named(self._send(), "hints-send")]

    async def stop(self) -> None:
        """Ends; what has not been sent is lost."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    async def wait_listening(self) -> None:
        """Returns while hints are heard."""
        await self._listening.wait()

    async def wait_company(self) -> None:
        """Returns while another replica is known to listen."""
        await self._company.wait()

    # --- sending ----------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        connection: Connection | None = None
        try:
            while True:
                await self._has_some.wait()
                if connection is None or connection.closed:
                    connection = await self._database.reconnect("hints sent", pinned=False)
                try:
                    await connection.fetch(HINTS["notify"], self._channel, self._take())
                except (Lost, Conflict, Rejected) as error:
                    _log.warning("hints not sent", cause=str(error))
                    await connection.close()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            if connection is not None:
                await connection.close()

    def _take(self) -> str:
        """As many as one NOTIFY carries, oldest first."""
        hints: list[tuple[str, object]] = []
        size = 0
        while self._waiting:
            kind, packed = next(iter(self._waiting))
            size += len(kind) + len(packed) + 6
            if hints and size > _MOST_BYTES:
                break
            hints.append((kind, self._waiting.pop((kind, packed))))
        if not self._waiting:
            self._has_some.clear()
        return _encode(Message(self._sender, hints)).decode()

    # --- listening --------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            connection = await self._database.reconnect("hints heard", pinned=False)
            try:
                await self._listen_on(connection)
            except Exception as error:  # noqa: BLE001 - the driver's many; all mean: once more
                _log.warning("hints are not heard for a moment", cause=str(error) or type(error).__name__)
            finally:
                self._listening.clear()
                await connection.close()

    async def _listen_on(self, connection: Connection) -> None:
        """Returns or raises when the connection is gone. It is tried now and then: a half-open one says nothing."""
        raw = connection.raw
        lost = asyncio.Event()
        raw.add_termination_listener(lambda *_: lost.set())
        await raw.add_listener(self._channel, self._heard)
        self.backend = raw.get_server_pid()
        self._listening.set()
        # A message without hints, should there be none.
        self._has_some.set()
        while not lost.is_set():
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    await lost.wait()
            except TimeoutError:
                await raw.execute("SELECT 1", timeout=_PROBE_SECONDS)
                self._probed()

    def _probed(self) -> None:
        """Gives a sign, and notes when none has come for long."""
        self._has_some.set()
        self._silence += 1
        if self._silence > _SILENT_PROBES:
            self._company.clear()

    def _heard(self, _connection: object, _backend: int, _channel: str, payload: object) -> None:
        try:
            message = _decode(str(payload))
        except msgspec.MsgspecError:
            return
        if message.sender == self._sender:
            return
        self._silence = 0
        if not self._company.is_set():
            self._company.set()
            self._has_some.set()
        for kind, data in message.hints:
            for callback in self._callbacks:
                try:
                    callback(kind, data)
                except Exception:  # noqa: BLE001 - nor may a listener end the hearing
                    _log.exception("hint not taken", kind=kind)


def _named(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.create_task(work, name=name)
