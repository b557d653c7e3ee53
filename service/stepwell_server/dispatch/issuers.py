"""The public keys of an issuer of tokens: fetched when they are needed, and kept.

A key that is not known may be new: then the keys are fetched again, but not more often than every few seconds, however
many tokens name keys that are nowhere. Keys that were fetched a while ago are fetched again beside the calls, so that
one that was withdrawn is given up. While the issuer is away its keys stay what they were.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import structlog

from stepwell_server import errors
from stepwell_server.dispatch.key_sets import read_key_set
from stepwell_server.telemetry.logs import words_of

if TYPE_CHECKING:
    from stepwell_server.trust import Issuer

_log = structlog.get_logger("stepwell.issuers")
_FRESH_SECONDS = 600.0
_PAUSE_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 1.0
_LOAD_SECONDS = 15.0
_MOST_KEYS = 100
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

Key = Mapping[str, Any]


class IssuerKeys:
    """See the module."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._keys: list[Key] = []
        self._usable: dict[tuple[str | None, str], jwt.PyJWK | None] = {}
        self._loaded = self._tried = float("-inf")
        self._loading: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[bytes] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of that id for that algorithm; without an id the only one there is for it. None if there is none.

        Refuses with ISSUER_KEYS_UNAVAILABLE.
        """
        if not self._keys:
            await self._load_again(_FIRST_PAUSE_SECONDS)
            if not self._keys:
                raise errors.IssuerKeysUnavailable(issuer=self._issuer.issuer)
        elif time.monotonic() > self._loaded + _FRESH_SECONDS:
            self._begin(_PAUSE_SECONDS)
        found = self._known(key_id, algorithm)
        if found is None and await self._load_again(_PAUSE_SECONDS):
            found = self._known(key_id, algorithm)
        return found

    def _known(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        place = key_id, algorithm
        if place not in self._usable:
            found = self._made(key_id, algorithm)
            if found is None:
                return None
            self._usable[place] = found
        return self._usable[place]

    def _made(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        suiting = [key for key in self._keys if _suits(key, algorithm) and key_id in (None, key.get("kid"))]
        if not suiting or (key_id is None and len(suiting) > 1):
            return None
        try:
            return jwt.PyJWK(dict(suiting[0]), algorithm)
        except jwt.PyJWTError:
            return None

    # --- loading ----------------------------------------------------------------------------------------------------

    async def _load_again(self, pause: float) -> bool:
        """Loads the keys, with whoever else waits for them. False if that was tried too short a time ago."""
        loading = self._begin(pause)
        if loading is None:
            return False
        # One caller's end must not be another's.
        await asyncio.shield(loading)
        return True

    def _begin(self, pause: float) -> asyncio.Task[None] | None:
        if self._loading is not None and not self._loading.done():
            return self._loading
        # A thread can't be interrupted: one that hangs is no reason for a second one.
        if time.monotonic() < self._tried + pause or (self._reading is not None and not self._reading.done()):
            return None
        self._tried = time.monotonic()
        self._loading = asyncio.create_task(self._load(), name="issuer keys")
        return self._loading

    async def _load(self) -> None:
        try:
            self._reading = asyncio.ensure_future(asyncio.to_thread(read_key_set, self._issuer))
            async with asyncio.timeout(_LOAD_SECONDS):
                text = await asyncio.shield(self._reading)
            keys = _keys_of(text)
        except Exception as error:  # noqa: BLE001 - whatever it was, there are no newer keys
            _log.warning("issuer.keys_unavailable", issuer=self._issuer.issuer, error=words_of(error))
            return
        self._keys, self._usable = keys, {}
        self._loaded = time.monotonic()


def _keys_of(text: bytes) -> list[Key]:
    """The keys of a set that may prove signatures. Raises ValueError if there is none."""
    whole = msgspec.json.decode(text)
    members = whole.get("keys") if isinstance(whole, dict) else None
    keys: list[Key] = [each for each in members if isinstance(each, dict)] if isinstance(members, list) else []
    keys = [each for each in keys if each.get("kty") in _KINDS.values() and each.get("use") in (None, "sig")]
    if not keys:
        raise ValueError("no key set, or none with a public key for signatures")
    return keys[:_MOST_KEYS]


def _suits(key: Key, algorithm: str) -> bool:
    return key["kty"] == _KINDS[algorithm[:2]] and key.get("alg") in (None, algorithm)
