"""A database that has grown: what real runs left, copied as often as it takes, key by key.

The service makes some thousands of runs in a second; a million would be most of the bench. Copies are rows as the
service wrote them, under other keys and ids. Their type is another, so that the checks can tell them apart.
"""

from __future__ import annotations

import asyncpg

COPIED = "copied"
_CHUNK = 50

_TABLES = """
    SELECT c.relname::text AS name,
      array_agg(a.attname::text ORDER BY a.attnum) AS columns
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'stepwell'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
    GROUP BY c.relname HAVING bool_or(a.attname = 'run_key')
"""
# Copies follow one behind the other, the first behind all keys that were given; each is as wide as what was copied.
_VALUES = {
    "run_key": "run_key + {beyond} + i * {span}",
    "run_id": "md5(run_id::text || i)::uuid",
}


async def copy_runs(url: str, templates: str, copies: int) -> None:
    """Copies all rows of the runs that a query names by `run_key`, that many times, behind all keys that were given."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        await connection.execute(f"CREATE TEMPORARY TABLE templates AS {templates}")
        first, last = await connection.fetchval("SELECT ARRAY[min(run_key), max(run_key)] FROM templates")
        highest = await connection.fetchval("SELECT last_value * 1000 + 999 FROM stepwell.run_key_blocks")
        span, beyond = last - first + 1, highest - last
        tables = await connection.fetch(_TABLES)
        for done in range(0, copies, _CHUNK):
            several = f"generate_series({done + 1}, {min(done + _CHUNK, copies)}) AS i"
            for table in tables:
                await connection.execute(
                    _copying(table["name"], table["columns"], several, span=span, beyond=beyond), timeout=600
                )
        given = last + beyond + copies * span
        await connection.execute("SELECT setval('stepwell.run_key_blocks', $1::bigint)", given // 1000 + 1)
    finally:
        await connection.close()


def _copying(table: str, columns: list[str], several: str, *, span: int, beyond: int) -> str:
    # Only what stands for the whole run has another type: steps have those of their activities.
    values = {**_VALUES, "type": f"'{COPIED}'"} if table in {"runs", "closed_runs"} else _VALUES
    chosen = ", ".join(values.get(name, f't."{name}"').format(span=span, beyond=beyond) for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    return (
        f'INSERT INTO stepwell."{table}" ({names}) SELECT {chosen} '  # noqa: S608 - names are the catalogue's
        f'FROM stepwell."{table}" t JOIN templates USING (run_key) CROSS JOIN {several}'
    )
