"""`stepwell key`: API keys, made, listed and revoked by an admin."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, as_dict, say, show_list, time_of
from stepwell.v1.api_keys_pb2 import ApiKeyRole, GetCallerResponse

app = typer.Typer(
    help="API keys. It takes an admin's: the first is made by `stepwell-server keys create`.", no_args_is_help=True
)


class RoleName(StrEnum):
    """What a key may do."""

    READER = "reader"
    WORKER = "worker"
    CLIENT = "client"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command()
def create(
    context: typer.Context,
    role: Annotated[RoleName, typer.Option(help="What it may do.")],
    *,
    label: Annotated[str, typer.Option(help="What to call it.")] = "",
    for_namespace: Annotated[
        str | None,
        typer.Option(help="The only namespace that it may use; - for all, as an admin's is.", show_default="main"),
    ] = None,
    task_queue: Annotated[
        list[str] | None,
        typer.Option(help="A queue that a worker may take tasks from, or how it begins and *.", show_default="all"),
    ] = None,
    days: Annotated[float | None, typer.Option(help="For how long it holds.", show_default="for ever", min=0)] = None,
    reuse_label: Annotated[bool, typer.Option("--reuse-label", help="Make none if a key of that label holds.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a key, and show it for the only time."""
    expire_time = None if days is None else dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    with context.obj.client() as client:
        made = client.api_keys.create(
            role.value,
            label=label,
            namespace=for_namespace,
            task_queues=task_queue or (),
            expire_time=expire_time,
            reuse_label=reuse_label,
        )
        text = f"{made.secret}\nis the key: keep it, it is not shown again"
        if not made.secret:
            text = f"key {made.api_key.prefix} was there, and is not shown again"
        say(text, {**as_dict(made.api_key), "secret": made.secret}, output)


@app.command("list")
def list_keys(
    context: typer.Context,
    *,
    revoked: Annotated[bool, typer.Option("--revoked", help="Show revoked ones, too.")] = False,
    only: Annotated[str, typer.Option("--filter", help="Only keys that fit, such as 'label = \"ci\"'.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List keys, newest first; never the keys themselves."""
    columns = {
        "PREFIX": lambda each: each.prefix,
        "LABEL": lambda each: each.label,
        "ROLE": lambda each: "imported" if each.imported else _role_of(each.role),
        "NAMESPACE": lambda each: each.namespace,
        "QUEUES": lambda each: " ".join(each.task_queues),
        "CREATED": lambda each: time_of(each.create_time),
        "EXPIRES": lambda each: time_of(each.expire_time),
        "REVOKED": lambda each: time_of(each.revoke_time),
        "USED": lambda each: time_of(each.use_time),
    }
    with context.obj.client() as client:
        show_list(client.api_keys.list(filter=only, show_revoked=revoked), columns, output, "there is no such key")


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="The key's id, or its prefix.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Revoke a key: within seconds nobody can call with it, and its streams are ended."""
    with context.obj.client() as client:
        revoked = client.api_keys.revoke(key) if _is_uuid(key) else client.api_keys.revoke(prefix=key)
        text = f"key {key} was revoked" if revoked else f"there is no key {key} that can be revoked"
        say(text, {"key": key, "revoked": revoked}, output)


@app.command()
def whoami(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show who you are to the service: by what, in which role, for which namespace and queues, until when."""
    with context.obj.client() as client:
        found = client.api_keys.caller()
        say("\n".join(_lines_of(found)), as_dict(found), output)


def _lines_of(found: GetCallerResponse) -> Iterator[str]:
    proof = GetCallerResponse.Proof.Name(found.proof).removeprefix("PROOF_").lower()
    yield f"{proof} {found.name}" if found.proof else "nobody is asked here"
    yield f"role       {_role_of(found.role)}"
    yield f"namespace  {found.namespace if found.namespace != '-' else 'all'}"
    if found.task_queues:
        yield f"queues     {' '.join(found.task_queues)}"
    if found.HasField("expire_time"):
        yield f"until      {time_of(found.expire_time)}"


def _role_of(role: ApiKeyRole.ValueType) -> str:
    return ApiKeyRole.Name(role).removeprefix("API_KEY_ROLE_").lower()


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
