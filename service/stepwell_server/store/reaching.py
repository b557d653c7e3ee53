"""How Postgres is reached: one connection to one of the servers that an address names.

Each server gets a time of its own: one that swallows everything, as a machine does that is gone, must not use up the
time of those behind it. The one that answered last is asked first, and one that did not is asked last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from stepwell_server.postgres_urls import Host, asks_for_attributes, hosts_of
from stepwell_server.store.faults import LOSSES, Lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell_server.store.lineage import Timeline


class Reached(NamedTuple):
    """A connection, and the history of the database that it leads to, if that is known."""

    connection: asyncpg.Connection
    timeline: Timeline | None


class Reach:
    """Opens connections by an address that is read anew each time.

    `wanted` is what a server must be (`target_session_attrs`) unless the address says so itself. `admit` looks at each
    connection, and raises Lost if its server will not do.
    """

    def __init__(
        self,
        address: Callable[[], str | None],
        seconds: float,
        wanted: str,
        admit: Callable[[asyncpg.Connection], Awaitable[Timeline | None]],
    ) -> None:
        self._address = address
        self._seconds = seconds
        self._wanted = wanted
        self._admit = admit
        self._hosts: list[Host] = []

    async def connect(self, **options: Any) -> Reached:  # noqa: ANN401 - the driver's
        """A connection, and the history that it leads to. Raises Lost if there is no address, or no server will do."""
        try:
            url = self._address()
        except ValueError as error:
            raise Lost(str(error)) from None
        if url is None:
            raise Lost("no address is set")
        if not asks_for_attributes(url):
            options["target_session_attrs"] = self._wanted
        said: list[str] = []
        for host in self._in_order(url):
            try:
                return await self._ask(url, host, options)
            except (*LOSSES, Lost, TimeoutError, asyncpg.PostgresError) as error:
                said.append(_said(host, error))
        raise Lost("; ".join(said))

    async def _ask(self, url: str, host: Host | None, options: dict[str, Any]) -> Reached:
        """One server. Whoever gives up waiting for it, for whatever reason, asks it last from then on."""
        where: dict[str, Any] = {} if host is None else {"host": host.name, "port": host.port}
        try:
            connection = await asyncpg.connect(url, timeout=self._seconds, **where, **options)
            return Reached(connection, await self._admit(connection))
        except BaseException:
            if host in self._hosts:
                self._hosts.remove(host)
                self._hosts.append(host)
            raise

    def _in_order(self, url: str) -> list[Host | None]:
        """The servers in the order to be asked; None where the environment says which it is."""
        named = hosts_of(url)
        if set(named) != set(self._hosts):
            self._hosts = list(named)
        return [*self._hosts] or [None]


def _said(host: Host | None, error: Exception) -> str:
    said = str(error) or type(error).__name__
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        said = "the server is a standby, or was told to take no writes"
    return said if host is None else f"{host.name}:{host.port}: {said}"
