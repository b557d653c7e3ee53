"""Definitions: cold statements. A run that follows one holds its row while it starts, so that deletion waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict, replace
from sqlalchemy import cast, delete, exists, func, literal, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from stepwell_server import errors
from stepwell_server.model.definitions import GREATEST_VERSION, Code, Definition, DefinitionRef
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.store import namespaces, requests
from stepwell_server.store.filters import after, named, sorting, where
from stepwell_server.store.schema import DEFINITIONS, RUN_DEFINITIONS
from stepwell_server.store.turns import take_turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.filters import Filter
    from stepwell_server.model.requests import Asked
    from stepwell_server.store.database import Database

BY_CODE: Order = (SortKey("code"), SortKey("version"))
LATEST_FIRST: Order = (SortKey("version", descending=True),)
_TIE = SortKey("definition_key")
_ROW = [DEFINITIONS.c[name] for name in Definition.__struct_fields__]
_LIGHT = [*_ROW[:-2], *(cast(null(), DEFINITIONS.c.body.type).label(column.name) for column in _ROW[-2:])]


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Which definitions to list; what is None or empty does not filter."""

    namespace_id: int
    code: str = ""
    active_only: bool = False
    text: str | None = None
    where: Filter | None = None


class Page(msgspec.Struct, frozen=True, gc=False):
    """Definitions of a list, and the place after them, if there are more."""

    definitions: list[Definition]
    place: tuple[Any, ...] | None


class Activated(msgspec.Struct, frozen=True, gc=False):
    """How many versions were meant, and how many of them changed."""

    found: int
    changed: int


async def create(database: Database, new: Definition, namespace: str, now: datetime, asked: Asked | None) -> Definition:
    """Keeps a new definition, with the next version if it has none, and answers it without its payloads.

    Refuses with DEFINITION_EXISTS, LIMIT_EXCEEDED, NAMESPACE_NOT_FOUND, REQUEST_ID_REUSED.
    """
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, Definition):
            return known
        await namespaces.hold(connection, new.namespace_id, namespace)
        # Who creates versions of one code at the same time does so in turn.
        await connection.execute(take_turn("definition", new.namespace_id, new.code))
        made = new if new.version else replace(new, version=await _next_version(connection, new))
        statement = insert(DEFINITIONS).values(asdict(made)).on_conflict_do_nothing()
        if (await connection.execute(statement.returning(DEFINITIONS.c.definition_key))).one_or_none() is None:
            raise errors.DefinitionExists(namespace=namespace, definition=made.code, version=made.version)
        seen = _without_payloads(made)
        await requests.note(connection, asked, seen, now)
        return seen


async def _next_version(connection: AsyncConnection, new: Definition) -> int:
    latest = (await _code(connection, new.namespace_id, new.code)).latest
    if latest >= GREATEST_VERSION:
        raise errors.LimitExceeded(limit="definition_version", value=latest + 1, maximum=GREATEST_VERSION)
    return latest + 1


async def find(
    database: Database, namespace_id: int, ref: DefinitionRef, *, active_only: bool = False
) -> Definition | None:
    """A definition with its payloads, or None. Walks the index of its id, or of its code backwards."""
    query = _one(namespace_id, ref, _ROW)
    if active_only:
        query = query.where(DEFINITIONS.c.active)
    async with database.pool.begin() as connection:
        found = (await connection.execute(query)).one_or_none()
    return None if found is None else Definition(*found)


async def code(database: Database, namespace_id: int, name: str) -> Code:
    """What is known of a code."""
    async with database.pool.begin() as connection:
        return await _code(connection, namespace_id, name)


async def keys(connection: AsyncConnection, namespace_id: int, ref: DefinitionRef) -> list[int]:
    """The keys of what is meant, a code alone meaning all its versions."""
    return list(await connection.scalars(_meant(namespace_id, ref, [DEFINITIONS.c.definition_key])))


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database,
    wanted: Wanted,
    order: Order,
    place: tuple[Any, ...] | None,
    size: int,
    skip: int,
    most_bytes: int,
    *,
    with_bodies: bool,
) -> Page:
    """Definitions that fit, after a place in that order; fewer where they are large, but at least one."""
    columns = named(DEFINITIONS.c)
    heavy = [DEFINITIONS.c.metadata, *([DEFINITIONS.c.body] if with_bodies else [])]
    weight = sum((func.coalesce(func.octet_length(each), 0) for each in heavy), start=literal(0))
    query = (
        select(DEFINITIONS.c.definition_key, weight, *_LIGHT)
        .where(*_conditions(wanted, columns))
        .order_by(*sorting(order, columns, _TIE))
        .limit(size + 1)
        .offset(skip)
    )
    if place is not None:
        query = query.where(after(order, columns, _TIE, place))
    async with database.pool.begin() as connection:
        found = [(row[0], row[1], Definition(*row[2:])) for row in await connection.execute(query)]
        shown, room = found[:1], most_bytes - sum(row[1] for row in found[:1])
        for row in found[1:size]:
            room -= row[1] + _ROW_BYTES
            if room < 0:
                break
            shown.append(row)
        payloads = select(DEFINITIONS.c.definition_key, *heavy).where(
            DEFINITIONS.c.definition_key.in_([row[0] for row in shown])
        )
        held = {row[0]: row[1:] for row in await connection.execute(payloads)} if shown else {}
    whole = [replace(each, **_payloads(held.get(key, ()))) for key, _, each in shown]
    more = len(found) > len(shown)
    return Page(whole, _place(shown[-1][2], shown[-1][0], order) if more else None)


async def change(  # noqa: PLR0917 - what there is to a change
    database: Database,
    namespace_id: int,
    ref: DefinitionRef,
    decide: Callable[[Definition], Definition],
    now: datetime,
    asked: Asked | None,
) -> Definition | None:
    """Changes a definition, locked meanwhile; answers it without its payloads, or None if there is none.

    The lock lets runs begin to follow it. Refuses with REQUEST_ID_REUSED, and as `decide` does.
    """
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, Definition):
            return known
        query = _one(namespace_id, ref, _ROW).with_for_update(key_share=True)
        found = (await connection.execute(query)).one_or_none()
        if found is None:
            return None
        before = Definition(*found)
        decided = replace(decide(before), revision=before.revision + 1, update_time=now)
        values = {name: value for name, value in asdict(decided).items() if value != getattr(before, name)}
        await connection.execute(update(DEFINITIONS).where(*_same(before)).values(values))
        seen = _without_payloads(decided)
        await requests.note(connection, asked, seen, now)
        return seen


async def set_active(
    database: Database, namespace_id: int, ref: DefinitionRef, *, active: bool, now: datetime, asked: Asked | None
) -> Activated:
    """Makes what is meant active or not: one version, or all of a code. Refuses with REQUEST_ID_REUSED."""
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, Activated):
            return known
        # In one order, so that two such calls wait for each other rather than block each other.
        query = _meant(namespace_id, ref, [DEFINITIONS.c.definition_key, DEFINITIONS.c.active])
        found = (await connection.execute(query.with_for_update(key_share=True))).all()
        changed = [row[0] for row in found if row[1] is not active]
        if changed:
            statement = update(DEFINITIONS).where(DEFINITIONS.c.definition_key.in_(changed))
            values = {"active": active, "revision": DEFINITIONS.c.revision + 1, "update_time": now}
            await connection.execute(statement.values(values))
        answer = Activated(len(found), len(changed))
        await requests.note(connection, asked, answer, now)
        return answer


async def remove(database: Database, namespace_id: int, ref: DefinitionRef, now: datetime, asked: Asked | None) -> int:
    """Deletes what is meant, all of it or nothing; answers how many versions.

    Who starts a run that follows one of them holds its row until the run is there, so it is seen here once the rows are
    locked. Refuses with DEFINITION_IN_USE, REQUEST_ID_REUSED.
    """
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, int):
            return known
        columns = [DEFINITIONS.c.definition_key, DEFINITIONS.c.code, DEFINITIONS.c.version]
        found = (await connection.execute(_meant(namespace_id, ref, columns).with_for_update())).all()
        keys = [row[0] for row in found]
        if keys:
            await _refuse_followed(connection, keys)
            await connection.execute(delete(DEFINITIONS).where(DEFINITIONS.c.definition_key.in_(keys)))
        await requests.note(connection, asked, len(keys), now)
        return len(keys)


async def _refuse_followed(connection: AsyncConnection, keys: list[int]) -> None:
    """Walks the index of runs by definition."""
    follows = exists().where(RUN_DEFINITIONS.c.definition_key == DEFINITIONS.c.definition_key)
    query = (
        select(DEFINITIONS.c.code, DEFINITIONS.c.version)
        .where(DEFINITIONS.c.definition_key.in_(keys), follows)
        .order_by(DEFINITIONS.c.version)
        .limit(1)
    )
    followed = (await connection.execute(query)).one_or_none()
    if followed is not None:
        raise errors.DefinitionInUse(definition=followed[0], version=followed[1])


async def _code(connection: AsyncConnection, namespace_id: int, name: str) -> Code:
    query = select(func.count(), func.coalesce(func.max(DEFINITIONS.c.version), 0)).where(
        DEFINITIONS.c.namespace_id == namespace_id, DEFINITIONS.c.code == name
    )
    return Code(*(await connection.execute(query)).one())


def _one(namespace_id: int, ref: DefinitionRef, columns: list[Any]) -> Select[Any]:
    """The one that is meant, a code alone meaning its latest version."""
    return _meant(namespace_id, ref, columns).order_by(None).order_by(DEFINITIONS.c.version.desc()).limit(1)


def _meant(namespace_id: int, ref: DefinitionRef, columns: list[Any]) -> Select[Any]:
    """What is meant, a code alone meaning all its versions."""
    conditions = [DEFINITIONS.c.namespace_id == namespace_id]
    if ref.definition_id is not None:
        conditions.append(DEFINITIONS.c.definition_id == ref.definition_id)
    if ref.code:
        conditions.append(DEFINITIONS.c.code == ref.code)
    if ref.version:
        conditions.append(DEFINITIONS.c.version == ref.version)
    return select(*columns).where(*conditions).order_by(DEFINITIONS.c.definition_key)


def _same(definition: Definition) -> list[ColumnElement[bool]]:
    return [DEFINITIONS.c[name] == getattr(definition, name) for name in ("namespace_id", "definition_id")]


def _conditions(wanted: Wanted, columns: dict[str, ColumnElement[Any]]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [DEFINITIONS.c.namespace_id == wanted.namespace_id]
    if wanted.code:
        conditions.append(DEFINITIONS.c.code == wanted.code)
    if wanted.active_only:
        conditions.append(DEFINITIONS.c.active)
    if wanted.text is not None:
        text_columns = (DEFINITIONS.c.code, DEFINITIONS.c.name)
        conditions.append(or_(*(column.icontains(wanted.text, autoescape=True) for column in text_columns)))
    if wanted.where is not None:
        conditions.append(where(wanted.where, columns))
    return conditions


def _place(definition: Definition, key: int, order: Order) -> tuple[Any, ...]:
    return (*(getattr(definition, each.field) for each in order), key)


def _payloads(values: tuple[bytes | None, ...] | Any) -> dict[str, bytes | None]:  # noqa: ANN401 - a row
    return dict(zip(("metadata", "body"), values, strict=False))


def _without_payloads(definition: Definition) -> Definition:
    return replace(definition, metadata=None, body=None)


_ROW_BYTES = 6 * 1024
"""What a row takes at most beside its payloads."""
