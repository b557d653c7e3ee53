"""API keys: made, imported, listed and revoked by people; looked up for the calls that come with them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec.structs import asdict
from sqlalchemy import ColumnElement, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from stepwell_server import errors
from stepwell_server.model.api_keys import ApiKey, SeenKey
from stepwell_server.model.orders import SortKey
from stepwell_server.store import namespaces, requests
from stepwell_server.store.faults import Lost
from stepwell_server.store.filters import after, named, sorting, where
from stepwell_server.store.schema import API_KEYS, NAMESPACES
from stepwell_server.store.turns import take_turn

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.filters import Filter
    from stepwell_server.model.orders import Order
    from stepwell_server.model.requests import Asked
    from stepwell_server.store.database import Database

NEWEST_FIRST: Order = (SortKey("create_time", descending=True),)
_BY_ID = SortKey("key_id")
_LIVE = (API_KEYS.c.revoke_time.is_(None),)
_MOST_CANDIDATES = 16


def _holds(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Neither revoked nor expired."""
    return (*_LIVE, or_(API_KEYS.c.expire_time.is_(None), API_KEYS.c.expire_time > now))


def _seen() -> Select[Any]:
    """Keys as people see them."""
    keys = API_KEYS.c
    columns = (
        *(keys.key_id, keys.prefix, keys.label, keys.role),
        case((keys.namespace_id.is_(None), None), else_=func.coalesce(NAMESPACES.c.name, "")).label("namespace"),
        *(keys.is_imported, keys.create_time, keys.expire_time, keys.revoke_time, keys.use_time, keys.task_queues),
    )
    return select(*columns).outerjoin(NAMESPACES, NAMESPACES.c.namespace_id == keys.namespace_id)


async def create(
    database: Database,
    key: ApiKey,
    namespace: str,
    *,
    reuse_label: bool = False,
    asked: Asked | None = None,
) -> tuple[SeenKey, bool]:
    """Keeps a new key, or finds the one that a repeat or the same label made; answers it, and whether it is new.

    Refuses with NAMESPACE_NOT_FOUND, REQUEST_ID_REUSED.
    """
    now = key.create_time
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, SeenKey):
            return known, False
        if key.namespace_id is not None:
            await namespaces.hold(connection, key.namespace_id, namespace)
        if reuse_label:
            await connection.execute(take_turn("api key", key.label))
            labelled = (API_KEYS.c.label == key.label, ~API_KEYS.c.is_imported, *_holds(now))
            found = await _first(connection, _seen().where(*labelled).order_by(API_KEYS.c.create_time).limit(1))
            if found is not None:
                return found, False
        await connection.execute(insert(API_KEYS).values(asdict(key)))
        made = await _the(connection, key.key_id)
        await requests.note(connection, asked, made, now)
    return made, True


async def keep(database: Database, key: ApiKey) -> SeenKey:
    """Keeps an imported hash. Refuses with API_KEY_EXISTS."""
    statement = insert(API_KEYS).values(asdict(key)).on_conflict_do_nothing().returning(API_KEYS.c.key_id)
    async with database.pool.begin() as connection:
        if await connection.scalar(statement) is None:
            raise errors.ApiKeyExists(prefix=key.prefix)
        return await _the(connection, key.key_id)


async def find_imported(database: Database, key_hash: str, now: datetime) -> SeenKey | None:
    """The imported key of that hash, if it holds. Walks api_keys_imported_idx."""
    query = _seen().where(API_KEYS.c.key_hash == key_hash, API_KEYS.c.is_imported, *_holds(now))
    async with database.pool.begin() as connection:
        return await _first(connection, query.limit(1))


async def get(database: Database, key_id: UUID) -> SeenKey:
    """One key. Refuses with API_KEY_NOT_FOUND."""
    async with database.pool.begin() as connection:
        return await _the(connection, key_id)


async def page(
    database: Database,
    wanted: Filter | None,
    order: Order,
    place: tuple[Any, ...] | None,
    most: int,
    *,
    show_revoked: bool,
) -> list[SeenKey]:
    """Keys that fit, after a place in that order. Reads the small table."""
    columns = named(API_KEYS.c)
    query = _seen().order_by(*sorting(order, columns, _BY_ID)).limit(most)
    if not show_revoked:
        query = query.where(*_LIVE)
    if wanted is not None:
        query = query.where(where(wanted, columns))
    if place is not None:
        query = query.where(after(order, columns, _BY_ID, place))
    async with database.pool.begin() as connection:
        return [SeenKey(*row) for row in await connection.execute(query)]


def place_of(key: SeenKey, order: Order) -> tuple[Any, ...]:
    """Where a key stands in that order."""
    return (*(getattr(key, each.field) for each in order), key.key_id)


async def revoke(database: Database, now: datetime, *, key_id: UUID | None = None, prefix: str = "") -> bool:
    """Revokes the key of that id, or else of that prefix; False if there is none, or if it was revoked.

    Refuses with API_KEY_AMBIGUOUS.
    """
    async with database.pool.begin() as connection:
        if key_id is None:
            named = select(API_KEYS.c.key_id).where(API_KEYS.c.prefix == prefix, *_LIVE).order_by(API_KEYS.c.key_id)
            found = (await connection.scalars(named.limit(_MOST_CANDIDATES))).all()
            if len(found) > 1:
                raise errors.ApiKeyAmbiguous(prefix=prefix, key_ids=", ".join(map(str, found)))
            if not found:
                return False
            key_id = found[0]
        revoked = update(API_KEYS).where(API_KEYS.c.key_id == key_id, *_LIVE).values(revoke_time=now)
        return (await connection.execute(revoked)).rowcount > 0


async def own_by_prefix(database: Database, prefixes: Collection[str]) -> list[tuple[SeenKey, str]]:
    """Keys of our own with those prefixes, in whatever state, each with its hash. Raises Lost.

    What was imported is no key to call with. Walks api_keys_prefix_idx.
    """
    query = _seen().add_columns(API_KEYS.c.key_hash)
    query = query.where(API_KEYS.c.prefix.in_(prefixes), ~API_KEYS.c.is_imported)
    try:
        async with database.pool.begin() as connection:
            return [(SeenKey(*row[:-1]), row[-1]) for row in await connection.execute(query)]
    except (SQLAlchemyError, OSError) as error:
        raise Lost(type(error).__name__) from error


async def note_use(database: Database, key_ids: Sequence[UUID], now: datetime) -> None:
    """Notes that keys were used. Raises Lost."""
    statement = update(API_KEYS).where(API_KEYS.c.key_id.in_(key_ids)).values(use_time=now)
    try:
        async with database.pool.begin() as connection:
            await connection.execute(statement)
    except (SQLAlchemyError, OSError) as error:
        raise Lost(type(error).__name__) from error


async def has_own(database: Database) -> bool:
    """Whether there is any key of our own that was not revoked."""
    query = select(API_KEYS.c.key_id).where(~API_KEYS.c.is_imported, *_LIVE).limit(1)
    async with database.pool.begin() as connection:
        return await connection.scalar(query) is not None


async def _first(connection: AsyncConnection, query: Select[Any]) -> SeenKey | None:
    row = (await connection.execute(query)).first()
    return SeenKey(*row) if row is not None else None


async def _the(connection: AsyncConnection, key_id: UUID) -> SeenKey:
    found = await _first(connection, _seen().where(API_KEYS.c.key_id == key_id))
    if found is None:
        raise errors.ApiKeyNotFound(key_id=key_id)
    return found
