"""Where archives are written: URLs of object stores. Credentials come from the environment alone, never from a URL."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, urlsplit

import msgspec

_BYTES = 1_024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]")
_PATH = re.compile(r"[A-Za-z0-9._/=+@-]*")
BUCKETS = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure"}


class ArchiveUrl(msgspec.Struct, frozen=True, gc=False):
    """A place for archives: a bucket (or container) of a cloud and a prefix in it, or a folder of this machine."""

    scheme: str
    bucket: str
    path: str

    def __str__(self) -> str:
        """The URL."""
        return f"{self.scheme}://{self.bucket}{self.path}"

    def of_run(self, namespace: str, run_id: object) -> str:
        """Where a run's archive is: at the same place whenever it is written."""
        return f"{self}/{name_of(namespace, run_id)}"


def name_of(namespace: str, run_id: object) -> str:
    """The name of a run's archive within its place."""
    # A namespace may be called `..`, which is no folder.
    folder = namespace if namespace.strip(".") else f"_{namespace}"
    return f"{folder}/{run_id}.json"


def read_archive_url(text: str) -> ArchiveUrl:
    """Reads a URL. Raises ValueError with what is wrong and what to do."""
    if len(text.encode()) > _BYTES:
        raise ValueError(f"is longer than {_BYTES} bytes")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError("is no URL: give it one such as s3://bucket/prefix") from error
    if parts.scheme not in {"file", *BUCKETS}:
        raise ValueError("must begin with file:///, s3://, gs:// or az://")
    if "@" in parts.netloc:
        raise ValueError("holds credentials: leave them out, the server takes them from its environment")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("has a query or a fragment: leave it out")
    path = unquote(parts.path).rstrip("/")
    if not _PATH.fullmatch(path) or posixpath.normpath(path or "/") != (path or "/"):
        raise ValueError(
            "has a path that is not plain: use letters, digits and . _ - = + @, and no empty or dotted parts"
        )
    if parts.scheme == "file":
        if parts.netloc or not path:
            raise ValueError("must name a folder of the server by its whole path, such as file:///var/lib/archive")
    elif not _BUCKET.fullmatch(parts.netloc):
        raise ValueError(f"must name a bucket, such as {parts.scheme}://bucket/prefix")
    return ArchiveUrl(parts.scheme, parts.netloc, path)
