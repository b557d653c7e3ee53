"""Making databases in a server."""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

TEMPLATE_BUSY_TRIES = 50
TEMPLATE_BUSY_SECONDS = 0.1


async def create_database(url: str, name: str, template: str | None = None) -> str:
    """Creates a database beside the one that the URL names and answers its URL.

    A template must be without connections to be copied; one that is being left is waited for.
    """
    statement = f"CREATE DATABASE {_quoted(name)}" + (f" TEMPLATE {_quoted(template)}" if template else "")
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        for attempt in range(TEMPLATE_BUSY_TRIES):
            try:
                await connection.execute(statement)
                break
            except asyncpg.ObjectInUseError:
                if attempt == TEMPLATE_BUSY_TRIES - 1:
                    raise
                await asyncio.sleep(TEMPLATE_BUSY_SECONDS)
    finally:
        await connection.close()
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(name, safe="")))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
