"""Object stores: where archives go. Folders by ourselves, so that what is written is on disk; clouds by obstore."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell_server import errors
from stepwell_server.ids import uuid7
from stepwell_server.model.archive_urls import BUCKETS, ArchiveUrl, name_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Client options given here would replace those of the environment, the endpoint's among them.
_OPTIONS: dict[str, Any] = {
    "retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
}
_PROBLEM = 300
_AT_ONCE = 5 * 1024 * 1024


def check(url: ArchiveUrl, folder: Path | None) -> None:
    """Whether this server can write there at all; `folder` is where file URLs may lead.

    Refuses with ARCHIVES_NOT_SUPPORTED.
    """
    if url.scheme != "file":
        _open(url)
        return
    if folder is None or not Path(url.path).is_relative_to(folder):
        where = f"lie below {folder}" if folder is not None else "are off"
        advice = f"folders {where}: STEPWELL_ARCHIVE_FOLDER names the one in which archives may be written"
        raise errors.ArchivesNotSupported(url=url, advice=advice)


async def put(url: ArchiveUrl, folder: Path | None, namespace: str, run_id: object, body: AsyncIterator[bytes]) -> str:
    """Writes an archive in the place of what was there, all or nothing; answers its URL.

    Refuses with ARCHIVES_NOT_SUPPORTED, ARCHIVE_UNAVAILABLE.
    """
    check(url, folder)
    name = name_of(namespace, run_id)
    if url.scheme == "file":
        try:
            await _write_file(Path(url.path) / name, body)
        except OSError as error:
            raise errors.ArchiveUnavailable(url=url, problem=error.strerror or type(error).__name__) from error
    else:
        await _put_object(url, name, body)
    return url.of_run(namespace, run_id)


async def _write_file(path: Path, body: AsyncIterator[bytes]) -> None:
    """Beside its place first, and then into it, on disk before this returns."""
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid7()}")
    try:
        with await asyncio.to_thread(beside.open, "xb") as file:
            async for part in body:
                await asyncio.to_thread(file.write, part)
            await asyncio.to_thread(file.flush)
            await asyncio.to_thread(os.fsync, file.fileno())
        await asyncio.to_thread(_put_in_place, beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _put_in_place(beside: Path, path: Path) -> None:
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def _put_object(url: ArchiveUrl, name: str, body: AsyncIterator[bytes]) -> None:
    store, head = _open(url), b""
    async for part in body:
        head += part
        if len(head) > _AT_ONCE:
            break
    try:
        # What is small goes in one request, what is not in several.
        await store.put_async(name, head if len(head) <= _AT_ONCE else _chained(head, body))
    except Exception as error:
        raise errors.ArchiveUnavailable(url=url, problem=_said(error)) from error


async def _chained(head: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for part in body:
        yield part


def _open(url: ArchiveUrl) -> Any:  # noqa: ANN401 - a store of an optional library
    """The store of a URL, with what the environment says of credentials, region and endpoint."""
    try:
        from obstore import store  # noqa: PLC0415 - only who archives needs it
    except ImportError as error:
        advice = f"{BUCKETS[url.scheme]} needs the extra: pip install 'stepwell-server[archive]'"
        raise errors.ArchivesNotSupported(url=url, advice=advice) from error
    try:
        return store.from_url(str(url), **_OPTIONS)
    except Exception as error:
        raise errors.ArchivesNotSupported(url=url, advice=_said(error)) from error


def _said(error: Exception) -> str:
    """What went wrong, in one line: the library tells more than a caller needs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_PROBLEM]
