"""Reads an issuer's key set from its address or its file, in a thread: bounded in time and size, and no further."""

from __future__ import annotations

import time
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from stepwell_server.trust import is_loopback

if TYPE_CHECKING:
    from http.client import HTTPMessage
    from typing import IO

    from stepwell_server.trust import Issuer

_SOCKET_SECONDS = 5.0
_WHOLE_SECONDS = 10.0
_MOST_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_FINE = 200


class _Source(Protocol):
    """What is read from, as much at a time as is there."""

    def read1(self, size: int, /) -> bytes: ...


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Where to read is said by the settings, and by nobody on the way."""

    def redirect_request(  # noqa: PLR0917 - as it is called
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follows none: it is an error, as any answer but a good one is."""
        del req, fp, code, msg, headers, newurl


def read_key_set(issuer: Issuer) -> bytes:
    """The text of the key set. Raises OSError, TimeoutError, ValueError if there is too much of it."""
    if issuer.jwks_file is not None:
        with issuer.jwks_file.open("rb") as file:
            return _bounded(file)
    try:
        return _fetched(issuer.jwks_url or "")
    except HTTPException as error:
        raise OSError(type(error).__name__) from None


def _fetched(url: str) -> bytes:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310 - settings refuse others
    with opener.open(request, timeout=_SOCKET_SECONDS) as answer:
        if answer.status != _FINE:
            raise OSError(f"answered with status {answer.status}")
        return _bounded(answer)


def _bounded(source: _Source) -> bytes:
    """All of it, if that is not too much, and does not take too long."""
    end = time.monotonic() + _WHOLE_SECONDS
    read = bytearray()
    while chunk := source.read1(_CHUNK_BYTES):
        read += chunk
        if len(read) > _MOST_BYTES:
            raise ValueError("too long for a key set")
        if time.monotonic() > end:
            raise TimeoutError("took too long")
    return bytes(read)
