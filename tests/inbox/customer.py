"""A program to be killed: it does one statement of a transaction after the other, each when it is told to."""

from __future__ import annotations

import asyncio
import sys

import asyncpg

STATEMENTS = (
    "BEGIN",
    "INSERT INTO orders VALUES ('tea')",
    "SELECT stepwell.stepwell_start('flow', run_id => '{run_id}')",
    "INSERT INTO orders VALUES ('salt')",
    "SELECT stepwell.stepwell_signal('go', run_id => '{run_id}')",
    "SELECT stepwell.stepwell_complete_step('{engine_id}', 'charge')",
    "UPDATE orders SET name = 'pepper' WHERE name = 'salt'",
    "COMMIT",
    "SELECT 1",
)


async def main(url: str, run_id: str, engine_id: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in STATEMENTS:
        if not sys.stdin.readline():
            return
        await connection.execute(statement.format(run_id=run_id, engine_id=engine_id))
        print(statement, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
