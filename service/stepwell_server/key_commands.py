"""`stepwell-server keys`: API keys, made in the database itself. So is the first admin's, and no other way."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar
from uuid import UUID

import typer

from stepwell_server.ids import MAIN
from stepwell_server.model.api_keys import Role, SeenKey, make_key
from stepwell_server.program import USAGE, Output, OutputOption, die, need_url, read_settings, run, show
from stepwell_server.settings import Settings
from stepwell_server.store import api_keys, migrations
from stepwell_server.store.database import Database
from stepwell_server.store.namespaces import Namespaces

app = typer.Typer(help="API keys, made and revoked in the database itself.", no_args_is_help=True)
Answer = TypeVar("Answer")
_ALL = "-"
_MOST_SHOWN = 1_000


class RoleName(StrEnum):
    """What a key may do."""

    READER = "reader"
    WORKER = "worker"
    CLIENT = "client"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command()
def create(  # noqa: PLR0917 - options of a command
    role: Annotated[RoleName, typer.Option(help="What it may do.")],
    label: Annotated[str, typer.Option(help="What to call it.")] = "",
    namespace: Annotated[
        str, typer.Option(help="The only namespace that it may use; - for all, as an admin's is.", show_default="main")
    ] = "",
    days: Annotated[float | None, typer.Option(help="For how long it holds.", show_default="for ever", min=0.0)] = None,
    reuse_label: Annotated[bool, typer.Option("--reuse-label", help="Make none if a key of that label holds.")] = False,  # noqa: FBT002 - a flag
    task_queue: Annotated[
        list[str] | None,
        typer.Option(help="A queue that a worker may take tasks from, or how it begins and *.", show_default="all"),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a key, and show it for the only time."""
    chosen = Role[role.name]
    scope = namespace or (_ALL if chosen is Role.ADMIN else MAIN)
    if chosen is Role.ADMIN and scope != _ALL:
        die("an admin may do all in all namespaces: leave --namespace out", USAGE)
    if task_queue and chosen is not Role.WORKER:
        die("--task-queue is for a worker's key", USAGE)
    if reuse_label and not label:
        die("--reuse-label needs a --label", USAGE)

    async def work(database: Database) -> tuple[SeenKey, str]:
        now = datetime.now(UTC)
        namespace_id = None if scope == _ALL else await Namespaces(database).id_of(scope)
        expire_time = None if days is None else now + timedelta(days=days)
        key, secret = make_key(chosen, label, namespace_id, now, expire_time, task_queue or ())
        made, is_new = await api_keys.create(database, key, scope, reuse_label=reuse_label)
        return made, secret if is_new else ""

    made, secret = run(_in_database(read_settings(), work))
    show({**_facts(made), "created": bool(secret), "secret": secret}, output)
    if not secret:
        sys.stderr.write("a key of that label holds already: it is not shown again\n")


@app.command("list")
def list_keys(output: OutputOption = Output.TABLE) -> None:
    """List keys that were not revoked, newest first."""

    async def work(database: Database) -> list[SeenKey]:
        return await api_keys.page(database, None, api_keys.NEWEST_FIRST, None, _MOST_SHOWN, show_revoked=False)

    for key in run(_in_database(read_settings(), work)):
        show(_facts(key), output)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's id, or its prefix.")], output: OutputOption = Output.TABLE
) -> None:
    """Revoke a key; exits 1 if there is none that can be."""
    key_id = _uuid(name)

    async def work(database: Database) -> bool:
        now = datetime.now(UTC)
        return await api_keys.revoke(database, now, key_id=key_id, prefix="" if key_id else name)

    revoked = run(_in_database(read_settings(), work))
    show({"key": name, "revoked": revoked}, output)
    if not revoked:
        raise typer.Exit(1)


async def _in_database(settings: Settings, work: Callable[[Database], Awaitable[Answer]]) -> Answer:
    window = await migrations.check(need_url(settings), schema=settings.database_schema)
    if not window.may_run:
        die(window.advice or "the database is not ready")
    database = Database(settings)
    try:
        return await work(database)
    finally:
        await database.close()


def _facts(key: SeenKey) -> dict[str, object]:
    return {
        "key_id": str(key.key_id),
        "prefix": key.prefix,
        "label": key.label,
        "role": Role(key.role).name.lower() if key.role else "imported",
        "namespace": key.namespace or _ALL,
        "task_queues": list(key.task_queues or ()),
        "create_time": key.create_time.isoformat(),
        "expire_time": key.expire_time.isoformat() if key.expire_time is not None else "",
        "use_time": key.use_time.isoformat() if key.use_time is not None else "",
    }


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
