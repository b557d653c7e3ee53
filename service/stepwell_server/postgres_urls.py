"""Addresses of Postgres: what is taken for one, which servers it names, and the file that may hold it.

Whatever is wrong with an address is said without repeating any of it: it holds a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

_PREFIXES = ("postgresql+asyncpg://", "postgres://", "postgresql://")
_DEFAULT_PORT = 5432
_MOST_PORT = 65_535
ATTRIBUTES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
"""What `target_session_attrs` may ask of a server."""


class Host(NamedTuple):
    """One server: a name, an IP address or the folder of a socket, and the port."""

    name: str
    port: int


def plain(url: str) -> str:
    """The address as Postgres' own programs spell it; SQLAlchemy's spelling is taken too, since many have it at hand.

    Raises ValueError, which says what is wrong with it.
    """
    prefix = next((each for each in _PREFIXES if url.startswith(each)), None)
    if prefix is None:
        raise ValueError("must begin with postgresql://")
    address = "postgresql://" + url.removeprefix(prefix)
    if "#" in address or any(character.isspace() for character in address):
        raise ValueError("must be without # and white space: in a password, # is written %23")
    if address.split("/")[2].count("@") > 1:
        raise ValueError("must have one @: in a password, it is written %40")
    _check_query(address)
    hosts_of(address)
    return address


def _check_query(url: str) -> None:
    query = _query(url)
    names = [name for name, _ in query]
    if len(set(names)) < len(names):
        raise ValueError("must give each parameter once: several servers are host=one,other&port=5432,5433")
    if dict(query).get("target_session_attrs", "any") not in ATTRIBUTES:
        raise ValueError(f"must have a target_session_attrs of {', '.join(ATTRIBUTES)}")


def hosts_of(url: str) -> tuple[Host, ...]:
    """The servers that it names, in their order; none if it leaves them to the environment. Raises ValueError."""
    try:
        place = urlsplit(url).netloc
    except ValueError:
        raise ValueError("must have a host, and brackets around an IPv6 address only") from None
    query = dict(_query(url))
    in_place = place.rpartition("@")[2]
    if in_place:
        return tuple(_host(unquote(each), _DEFAULT_PORT) for each in in_place.split(","))
    names = [each for each in query.get("host", "").split(",") if each]
    ports = [_port(each) for each in query.get("port", "").split(",") if each] or [_DEFAULT_PORT]
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names) and names:
        raise ValueError("must have as many ports as hosts, or one")
    return tuple(_host(name, port) for name, port in zip(names, ports, strict=False))


def asks_for_attributes(url: str) -> bool:
    """Whether it says itself which of its servers will do."""
    return "target_session_attrs" in dict(_query(url))


def read(path: Path) -> str:
    """The address in a file, as it is now. Raises ValueError if there is none that can be used."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {type(error).__name__}") from None
    try:
        return plain(text)
    except ValueError as error:
        raise ValueError(f"the address in {path} {error}") from None


def _query(url: str) -> list[tuple[str, str]]:
    text = url.partition("?")[2]
    try:
        return parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
    except ValueError:
        raise ValueError("must have parameters as name=value after the ?: in a password, ? is written %3F") from None


def _host(text: str, port: int) -> Host:
    """A server as it is written, with a port of its own or without."""
    if text.startswith("/"):
        return Host(text, port)
    name, after = text, ""
    if text.startswith("["):
        name, _, after = text[1:].partition("]")
    elif ":" in text:
        name, _, after = text.partition(":")
        after = f":{after}"
    return Host(name, _port(after.removeprefix(":")) if after else port)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _MOST_PORT:
        raise ValueError("must have a number as port: in a password, / is written %2F, ? %3F and : %3A")
    return int(text)
