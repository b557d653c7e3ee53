"""Whom the service trusts besides its own keys: issuers of tokens, and names of certificates; what is set of them.

Each is a list of rules: the first that fits says what the caller may do. A pattern is a text as it is, or, with `*` at
its end, how a text begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_EVERY = "-"
_SCOPE = "scope"

Text = Annotated[str, Field(min_length=1, max_length=1_024)]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]  # fmt: skip
"""What tokens may be signed with: nothing whose key an issuer would have to share."""


def fits(pattern: str, text: str) -> bool:
    """Whether a pattern names a text."""
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Grant(BaseModel):
    """What somebody may do."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    role: Literal["reader", "worker", "client", "operator", "admin"]
    """What for."""
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,255}$")] = ""
    """The only namespace; `-` for all, as an admin's is. Default `main`."""
    task_queues: Annotated[tuple[Text, ...], Field(max_length=256)] = ()
    """The only task queues that a worker may take tasks from, as patterns. Default: all of the namespace's."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.role == "admin" and self.namespace not in ("", _EVERY):
            raise ValueError("an admin is one for all namespaces: leave namespace out, or give '-'")
        if self.task_queues and self.role != "worker":
            raise ValueError("task_queues are a worker's")
        return self

    @property
    def scope(self) -> str | None:
        """The only namespace, or None for all."""
        namespace = self.namespace or (_EVERY if self.role == "admin" else "main")
        return None if namespace == _EVERY else namespace


class TokenRule(Grant):
    """What the bearers of some tokens may do."""

    claims: Annotated[dict[Text, Text], Field(min_length=1)]
    """What a token must say, each claim by a pattern: `{"groups": "platform", "realm.name": "eu-*"}`. A claim within
    another is named with a dot between. Of a claim that is a list one item must fit, of `scope` one of its words."""

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token says all of it."""
        return all(
            any(fits(pattern, text) for text in _texts(claims, path, path)) for path, pattern in self.claims.items()
        )


class Issuer(BaseModel):
    """Somebody whose tokens (JWT) are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    issuer: Text
    """What its tokens say as `iss`, to the letter."""
    audience: Annotated[tuple[Text, ...], BeforeValidator(_one_or_several), Field(min_length=1)]
    """What they must say as `aud`: one text, or several of which one must be there."""
    jwks_url: str | None = None
    """Where its public keys are: by https, or by http on loopback. They are fetched when they are needed."""
    jwks_file: Path | None = None
    """Or the file that holds them. Either is needed, and not both."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    """What its tokens may be signed with."""
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    """By how much its clock may be wrong."""
    rules: Annotated[tuple[TokenRule, ...], Field(min_length=1)]
    """What its tokens allow: the first rule that fits counts, and none allows nothing."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if (self.jwks_url is None) is (self.jwks_file is None):
            raise ValueError("give jwks_url or jwks_file, and not both")
        if self.jwks_url is not None and not _is_safe(self.jwks_url):
            raise ValueError("jwks_url must begin with https://, or with http:// and an address of loopback")
        return self


class CertificateRule(Grant):
    """What who holds some certificates may do. The connection has checked that the certificate is good."""

    name: Text
    """One of the certificate's names, as a pattern: a URI or a DNS name of its subject, or its common name."""


def _is_safe(url: str) -> bool:
    """Whether nobody on the way can change what is read there."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a host is this very machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _texts(claims: Mapping[str, Any], path: str, whole: str) -> Iterator[str]:
    """What a token says at a path. A claim's own name may have dots in it: all ways to read the path are tried."""
    value = claims.get(path)
    if isinstance(value, str):
        yield from value.split() if whole == _SCOPE else (value,)
    elif isinstance(value, list):
        yield from (each for each in value if isinstance(each, str))
    for place, character in enumerate(path):
        inner = claims.get(path[:place]) if character == "." else None
        if isinstance(inner, Mapping):
            yield from _texts(inner, path[place + 1 :], whole)
