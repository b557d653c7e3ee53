"""What docs/inbox.md shows is what happens: by a role that has the rights which it names, and no others."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg
from tests.docs.documents import ADDRESS, Block, Document, blocks
from tests.inbox.kit import Seen
from tests.service import soon

from stepwell_server.service import Service
from stepwell_server.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs/inbox.md"


class Page(Document):
    """A document with SQL, of an operator and of a program."""

    sql: asyncpg.Connection
    role: str

    async def _do(self, block: Block) -> None:
        if block.language != "sql":
            await super()._do(block)
        elif block.duty == "program":
            await self.sql.execute(f"SET ROLE {self.role}")
            await self.sql.execute(block.text)
            await self.sql.execute("RESET ROLE")
            await soon(lambda: self.sql.fetchval("SELECT count(*) = 0 FROM stepwell.inbox"))


async def test_the_page_about_the_inbox_is_true(database_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0)
    role = f"shop_{uuid4().hex[:8]}"
    async with Service(settings) as service:
        sql = await asyncpg.connect(database_url)
        (operator,) = (block for block in blocks(PAGE) if block.duty == "operator")
        await sql.execute(re.sub(r"\bshop\b", role, operator.text))
        try:
            await sql.execute("CREATE TABLE orders (name text PRIMARY KEY, paid boolean)")
            await sql.execute(f"GRANT ALL ON orders TO {role}")
            page = Page(PAGE, tmp_path, {ADDRESS: service.address}, [Path(sys.executable).parent])
            page.sql, page.role = sql, role
            assert await page.carry_out() == 11
            await soon(lambda: sql.fetchval("SELECT count(*) = 0 FROM stepwell.inbox"))
            assert [name for names in (await Seen(sql).signals()).values() for name in names] == ["paid", "paid"]
            assert await sql.fetchval("SELECT paid FROM orders")
        finally:
            await sql.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
            await sql.close()
