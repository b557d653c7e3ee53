"""The debug bundle: what somebody who helps wants to know of a deployment, in one file that may be given away.

What is shown is listed here; whatever is new is hidden until somebody puts it on the list. There are no payloads, keys,
headers, passwords or values of variables in it, and no row of a run.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import re
import sys
import tarfile
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from stepwell_server.program import need_url
from stepwell_server.store import bundle, migrations
from stepwell_server.store.database import Database
from stepwell_server.telemetry import words_of

if TYPE_CHECKING:
    from typing import BinaryIO

    from stepwell_server.settings import Settings

SHOWN = frozenset(
    {
        *("database_schema", "pool_connections", "committers", "connect_seconds", "reconnect_seconds_maximum"),
        *("statement_seconds", "lock_seconds", "idle_transaction_seconds", "host", "port", "metrics_host"),
        *("metrics_port", "require_keys", "key_seconds", "open_reflection", "shutdown_seconds", "session_seconds"),
        *("heartbeat_seconds", "ack_seconds", "max_returns", "ping_seconds", "outbox_messages"),
        *("resident_advance_seconds", "calls_at_once", "committer_queue_commands", "committer_queue_bytes"),
        *("committer_batch_commands", "committer_batch_bytes", "dispatch_poll_seconds", "mail_poll_seconds"),
        *("inbox_poll_seconds", "dead_letter_seconds", "watch_poll_seconds", "queue_settings_seconds"),
        *("clock_align_seconds", "schema_check_seconds", "leader_probe_seconds", "leader_idle_seconds"),
        *("topic_poll_seconds", "slot_poll_seconds", "timer_poll_seconds", "expiry_poll_seconds"),
        *("schedule_poll_seconds", "timeout_poll_seconds", "backlog_poll_seconds", "job_retention_seconds"),
        *("retention_poll_seconds", "slow_seconds", "log_level", "log_format", "test_clock", "limits"),
        *("health_host", "health_port", "tls_client_certificates", "tls_client_port", "tls_reload_seconds", "audit"),
        *("unready_seconds", "connection_seconds", "streams_at_once"),
    }
)
"""Settings whose values are told."""
ADDRESSES = frozenset({"database_url", "pool_url"})
"""Settings of which only host, port, database and user are told."""
HIDDEN = "[hidden]"
_URL = re.compile(r"postgresql://(?:([\w.-]*)(?::[^@/?#]*)?@)?([\w.:,\[\]-]*)/?([\w-]*)(?:\?([^@]*))?")
_HOSTS = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\])?(?::\d+)?(?:,(?:[\w.-]+|\[[0-9a-fA-F:]+\])?(?::\d+)?)*")
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("cpu.max", "cpu.stat", "memory.max", "memory.high", "memory.current", "memory.events", "pids.max")
_METRICS_SECONDS = 5.0
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with
_ABOUT = """\
A debug bundle of Stepwell.

about.json       versions, when it was made, what the container may use
settings.json    settings of the service; hidden ones by name only
packages.json    Python packages and their versions
schema.json      how the database's schema stands to this server
database/        what the database says: connections, locks, tables, indexes, backlog, leader, sessions, ...
metrics.txt      the metrics of the replica in which it was made, if it serves them

It holds names (of queues, types, namespaces, builds, tables) and figures. It holds no payloads, no failures, no keys or
their hashes, no passwords, no headers, no values of variables that are not in settings.json, no text of a statement.
"""


async def collect(settings: Settings) -> dict[str, str]:
    """The files of a bundle, by name. What can't be had says why."""
    files: dict[str, object] = {
        "about.json": about(),
        "settings.json": shown_settings(settings),
        "packages.json": {each.name: each.version for each in distributions()},
        "schema.json": await _schema(settings),
    }
    files |= {f"database/{subject}.json": told for subject, told in (await _database(settings)).items()}
    rendered = {name: json.dumps(told, indent=2, default=str) + "\n" for name, told in files.items()}
    return {"README.txt": _ABOUT, **rendered, "metrics.txt": await asyncio.to_thread(_metrics, settings)}


def write(files: dict[str, str], out: BinaryIO) -> None:
    """Writes the files as a compressed archive, in a folder of their own."""
    now = datetime.now(UTC)
    folder = f"stepwell-bundle-{now:%Y%m%d-%H%M%S}"
    with tarfile.open(fileobj=out, mode="w|gz") as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime = len(content), now.timestamp()
            archive.addfile(member, io.BytesIO(content))


def about() -> dict[str, object]:
    """What runs, and where."""
    return {
        "time": datetime.now(UTC),
        "version": version("stepwell-server"),
        "schema": len(migrations.shipped()),
        "python": sys.version,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "user": os.getuid(),
        "limits": {name: _read(_CGROUP / name) for name in _LIMITS},
        "variables": sorted(name for name in os.environ if name.startswith(("STEPWELL_", "OTEL_"))),
    }


def shown_settings(settings: Settings) -> dict[str, object]:
    """Settings as they may be told."""
    told: dict[str, object] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if name in SHOWN:
            told[name] = value.model_dump() if hasattr(value, "model_dump") else value
        elif value is None:
            told[name] = None
        else:
            told[name] = address(value) if name in ADDRESSES else HIDDEN
    return told


def address(url: str) -> dict[str, object] | str:
    """Where a database is. Of a URL that does not look as one should, nothing is told."""
    found = _URL.fullmatch(url)
    if found is None or not _HOSTS.fullmatch(found[2]):
        return HIDDEN
    options = sorted(part.partition("=")[0] for part in (found[4] or "").split("&") if part)
    known = [name for name in options if re.fullmatch(r"[a-z_]{1,40}", name)]
    return {"user": found[1] or "", "hosts": found[2], "database": found[3], "options": known}


async def _schema(settings: Settings) -> object:
    try:
        window = await migrations.check(need_url(settings), schema=settings.database_schema)
    except Exception as error:  # noqa: BLE001 - whatever it is: the rest is told all the same
        return {"error": words_of(error)}
    return {
        "standing": window.standing.name,
        "version": window.version,
        "min_server": window.min_server,
        "server": window.server,
        "may_run": window.may_run,
        "advice": window.advice,
    }


async def _database(settings: Settings) -> dict[str, object]:
    database = Database(settings)
    try:
        connection = await database.connect("bundle", pinned=False)
        try:
            return await bundle.read_all(connection, settings.database_schema)
        finally:
            await connection.close()
    except Exception as error:  # noqa: BLE001 - likewise
        return {"server": {"error": words_of(error)}}
    finally:
        await database.close()


def _metrics(settings: Settings) -> str:
    if not settings.metrics_port:
        return "# no port is set for them\n"
    host = "127.0.0.1" if settings.metrics_host in _EVERYWHERE else settings.metrics_host
    where = f"http://{f'[{host}]' if ':' in host else host}:{settings.metrics_port}/metrics"
    try:
        with urlopen(where, timeout=_METRICS_SECONDS) as response:
            text: str = response.read().decode()
    except (URLError, OSError) as error:
        return f"# not to be had: {words_of(error)}\n"
    return text


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
