"""A server from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from stepwell_server.embedded import EmbeddedPostgres
from stepwell_server.model.api_keys import Role, make_key
from stepwell_server.service import Service
from stepwell_server.store import api_keys, migrations
from stepwell_server.store.database import Database
from stepwell_server.telemetry import serve_metrics

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from stepwell_server.settings import Settings

_log = structlog.get_logger("stepwell")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# So many more objects than before make a collection worth its time: several batches' worth.
_COLLECT_AFTER = 50_000


class Signals:
    """The first one asks for an orderly end; the second ends the process at once."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.name = ""
        self.last_acts: list[Callable[[], None]] = []
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._come, number)

    def _come(self, number: int) -> None:
        self.name = signal.Signals(number).name
        if self.came.is_set():
            _log.warning("stopped at once", signal=self.name)
            for act in self.last_acts:
                act()
            os._exit(128 + number)
        self.came.set()


async def serve(settings: Settings, announce: Callable[[Service], None] | None = None) -> None:
    """Serves until a signal comes."""
    await _serve(settings, Signals(), announce)


async def dev(settings: Settings, announce: Callable[[str, Path, str], None]) -> None:
    """Starts a Postgres, migrates, and serves until a signal comes. Announces the first API key, if it made one."""
    signals = Signals()
    folder = settings.dev_data_dir
    async with EmbeddedPostgres(folder) as postgres:
        # Its fast shutdown: nobody is left who would.
        signals.last_acts.append(lambda: os.kill(postgres.pid, signal.SIGINT))
        await migrations.migrate(postgres.url, schema=settings.database_schema)
        own = settings.model_copy(update=_only(postgres.url))
        key = await _first_key(own) if own.require_keys else ""
        await _serve(own, signals, lambda service: announce(service.address, folder, key))


def _only(url: str) -> dict[str, str | None]:
    """The settings by which this is the only database."""
    return {"database_url": url, "database_url_file": None, "pool_url": None, "pool_url_file": None}


async def _first_key(settings: Settings) -> str:
    """An admin's key, made before anybody can call; empty if there are keys already."""
    database = Database(settings)
    try:
        if await api_keys.has_own(database):
            return ""
        key, secret = make_key(Role.ADMIN, "dev", None, datetime.now(UTC))
        await api_keys.create(database, key, "")
    finally:
        await database.close()
    return secret


async def _serve(settings: Settings, signals: Signals, announce: Callable[[Service], None] | None) -> None:
    service = Service(settings)
    _spare_collector()
    warn(settings)
    stop_metrics = _metrics(settings)
    await service.start()
    _log.info("listening", **service.addresses)
    announcing = asyncio.create_task(_announce(service, announce))
    await signals.came.wait()
    announcing.cancel()
    _log.info("stopping", signal=signals.name)
    await service.stop()
    if stop_metrics is not None:
        await asyncio.to_thread(stop_metrics)
    _log.info("stopped")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn(settings: Settings) -> None:
    """Of what works, and is seldom meant."""
    if not settings.require_keys:
        _log.warning("open to everybody", advice="nobody is asked for an API key")
    elif settings.tls_certificate_file is None and not is_loopback(settings.host):
        _log.warning(
            "keys travel in the clear",
            host=settings.host,
            advice="set STEPWELL_TLS_CERTIFICATE_FILE and STEPWELL_TLS_KEY_FILE, unless a mesh or a proxy encrypts",
        )


def _spare_collector() -> None:
    """What is loaded by now stays: the garbage collector need not walk it again and again, nor look often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


async def _announce(service: Service, announce: Callable[[Service], None] | None) -> None:
    await service.wait_ready()
    if announce is not None:
        announce(service)


def _metrics(settings: Settings) -> Callable[[], None] | None:
    if settings.metrics_port is None:
        return None
    port, stop = serve_metrics(settings.metrics_port, settings.metrics_host)
    _log.info("metrics", address=f"{settings.metrics_host}:{port}")
    return stop


def loop_factory() -> Callable[[], AbstractEventLoop] | None:
    """The event loop of uvloop, if that is installed."""
    try:
        factory: Callable[[], AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ModuleNotFoundError:
        return None
    return factory
