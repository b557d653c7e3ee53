"""Leadership of outside engines: one row a name, taken by whoever finds its time over."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, case, or_, select
from sqlalchemy.dialects.postgresql import insert

from stepwell_server.store.schema import LEADERSHIPS

if TYPE_CHECKING:
    from stepwell_server.store.database import Database


class Leadership(NamedTuple):
    """Who leads, under which token, and until when."""

    holder: str
    token: int
    expire_time: datetime


async def acquire(  # noqa: PLR0917 - the columns of one row, and when it is
    database: Database, namespace_id: int, name: str, holder: str, expire_time: datetime, now: datetime
) -> Leadership | None:
    """Takes or renews a leadership; None if somebody else leads. Walks leaderships_pkey."""
    table = LEADERSHIPS.c
    wanted = insert(LEADERSHIPS).values(name=_key(namespace_id, name), holder=holder, epoch=1, expire_time=expire_time)
    renewed = and_(table.holder == wanted.excluded.holder, table.expire_time > now)
    statement = wanted.on_conflict_do_update(
        index_elements=["name"],
        set_={
            "holder": wanted.excluded.holder,
            "epoch": case((renewed, table.epoch), else_=table.epoch + 1),
            "expire_time": wanted.excluded.expire_time,
        },
        where=or_(table.holder == wanted.excluded.holder, table.expire_time <= now),
    ).returning(table.holder, table.epoch, table.expire_time)
    async with database.pool.begin() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return None if row is None else Leadership(*row)


async def read(database: Database, namespace_id: int, name: str) -> Leadership | None:
    """Who led last."""
    table = LEADERSHIPS.c
    query = select(table.holder, table.epoch, table.expire_time).where(table.name == _key(namespace_id, name))
    async with database.pool.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else Leadership(*row)


def _key(namespace_id: int, name: str) -> str:
    """Our own leader's name is empty, and so nobody else's."""
    return f"{namespace_id}/{name}"
