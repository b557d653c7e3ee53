"""What a client proves itself with: a key that stays, or one that somebody renews, as tokens must be."""

from __future__ import annotations

import time
from collections.abc import Callable
from os import environ
from pathlib import Path

_LOOK_SECONDS = 1.0

ApiKey = str | Callable[[], str]
Metadata = tuple[tuple[str, str], ...]


class FileKey:
    """A key in a file, which is read again when it has changed."""

    def __init__(self, path: str) -> None:
        """Reads nothing yet."""
        self._path = path
        self._key = ""
        self._read_as: tuple[int, int, int] | None = None
        self._looked = float("-inf")

    def __call__(self) -> str:
        """Gives what the file holds, at most a second late. Raises `OSError` if it can't be read the first time."""
        now = time.monotonic()
        if now < self._looked + _LOOK_SECONDS:
            return self._key
        self._looked = now
        try:
            found = Path(self._path).stat()
            as_read = found.st_ino, found.st_mtime_ns, found.st_size
            if as_read != self._read_as:
                self._key = Path(self._path).read_text().strip()
                self._read_as = as_read
        except OSError:
            # One that is being replaced is there again in a moment.
            if self._read_as is None:
                self._looked = float("-inf")
                raise
        return self._key


class Proof:
    """What goes along with each call. `is_renewed` if it may be another one for the next call."""

    def __init__(self, api_key: ApiKey | None) -> None:
        """Takes a key, or what gives one; else the variables STEPWELL_API_KEY or STEPWELL_API_KEY_FILE, if set."""
        if api_key is None:
            path = environ.get("STEPWELL_API_KEY_FILE")
            api_key = environ.get("STEPWELL_API_KEY") or (FileKey(path) if path else "")
        self._give = None if isinstance(api_key, str) else api_key
        self._metadata: Metadata = _with(api_key) if isinstance(api_key, str) else ()

    @property
    def is_renewed(self) -> bool:
        """Whether it may change."""
        return self._give is not None

    @property
    def metadata(self) -> Metadata:
        """As metadata. Raises `ValueError` for what can be no key, and what the giving function or the file raises."""
        return self._metadata if self._give is None else _with(self._give())


def _with(api_key: str) -> Metadata:
    if not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("an API key is one line of plain text: leave out what is no letter, as a line break")
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()
