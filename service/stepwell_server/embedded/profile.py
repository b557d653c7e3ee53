"""The server settings that a data folder is run with."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Profile:
    """A named set of Postgres settings; `durable` says whether a commit survives a power cut."""

    __slots__ = ("durable", "settings")

    def __init__(self, *, durable: bool, settings: Mapping[str, str]) -> None:
        self.durable = durable
        self.settings = MappingProxyType(dict(settings))


_COMMON = {
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "logging_collector": "off",
    "password_encryption": "scram-sha-256",
}

DURABLE = Profile(durable=True, settings=_COMMON | {"fsync": "on", "synchronous_commit": "on"})
FAST = Profile(
    durable=False,
    settings=_COMMON | {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "2GB"},
)
