"""What the migrating role lacks, in the words of who may grant it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from stepwell_server.store.migration_files import MigrationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Who owns what in the schema and is nobody that the role may act as.
_OTHERS = """
    SELECT pg_get_userbyid(c.relowner) AS owner, count(*) AS count, min(c.relname) AS example
    FROM pg_class AS c
    WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p', 'S')
        AND NOT pg_has_role(c.relowner, 'USAGE')
    GROUP BY 1 ORDER BY 2 DESC LIMIT 1
"""


async def check_rights(connection: asyncpg.Connection, schema: str) -> None:
    """Looks before anything is begun; raises MigrationError with the right that is missing."""
    role = await connection.fetchval("SELECT current_user")
    may = "SELECT has_schema_privilege($1, 'USAGE') AND has_schema_privilege($1, 'CREATE')"
    if not await connection.fetchval(may, schema):
        raise MigrationError(
            f'role "{role}" may not make tables in schema "{schema}": as its owner, '
            f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{role}"'
        )
    other = await connection.fetchrow(_OTHERS, f'"{schema}"')
    if other is not None:
        raise MigrationError(
            f'role "{role}" may not change what "{other["owner"]}" owns in schema "{schema}" ({other["count"]} tables, '
            f'such as {other["example"]}): migrate as that role, or GRANT "{other["owner"]}" TO "{role}"'
        )


@asynccontextmanager
async def in_words(connection: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """Says of a right that is missing which it is."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        role = await connection.fetchval("SELECT current_user")
        raise MigrationError(f'role "{role}" lacks a right: {error}: {_remedy(str(error), schema, role)}') from error


def _remedy(said: str, schema: str, role: str) -> str:
    if "for database" in said:
        return f'grant it that, or make the schema for it: CREATE SCHEMA "{schema}" AUTHORIZATION "{role}"'
    if "for schema" in said:
        return f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{role}"'
    return f'migrate as the role that owns the tables of schema "{schema}"'
