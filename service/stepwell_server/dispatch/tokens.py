"""Tokens (JWT) of trusted issuers: whose they are, so that most calls cost no signature.

A token is told by its issuer's rules once its signature, issuer, audience and times have been found good. What was
found counts for a minute at most, and not beyond its end. Nothing of a token is kept but its hash and what it says of
its bearer, and nothing else of it is in a refusal or a log.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from jwt.exceptions import InvalidSubjectError

from stepwell_server import errors
from stepwell_server.dispatch.callers import Caller, Proof
from stepwell_server.dispatch.issuers import IssuerKeys
from stepwell_server.model.api_keys import Role
from stepwell_server.model.tokens import token_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.trust import Issuer

_KNOWN_SECONDS = 60.0
_MOST_KNOWN = 10_000
_MOST_SECONDS = 253_402_300_799  # the end of the year 9999, less what a leeway adds
_MOST_SUBJECT = 1_024
_SHOWN = 255
# Times are told by the service's clock; the rest is the library's.
_OPTIONS: Any = {
    "require": ["iss", "aud", "exp", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "enforce_minimum_key_length": True,
}


class TokenCaller(Caller, kw_only=True):
    """The bearer of a token. Its handle is the token's hash."""

    until: float
    """When the token must be looked at again, by the monotonic clock."""


class _Trusted(NamedTuple):
    issuer: Issuer
    keys: IssuerKeys


class KnownTokens:
    """See the module."""

    def __init__(self, issuers: Sequence[Issuer], clock: Clock) -> None:
        self._clock = clock
        self._issuers = {each.issuer: _Trusted(each, IssuerKeys(each)) for each in issuers}
        self._known: dict[str, TokenCaller] = {}

    def known(self, text: str) -> TokenCaller | None:
        """Who calls with that token, or None if it must be looked at."""
        found = self._known.get(token_hash(text))
        return found if found is not None and found.until > time.monotonic() else None

    async def learn(self, text: str) -> TokenCaller:
        """Who calls with that token.

        Refuses with TOKEN_MALFORMED, TOKEN_UNTRUSTED, TOKEN_EXPIRED, IDENTITY_WITHOUT_ROLE, ISSUER_KEYS_UNAVAILABLE.
        """
        header, said = _read(text)
        trusted = self._issuers.get(said["iss"])
        if trusted is None:
            raise errors.TokenUntrusted(problem="this server does not trust its issuer")
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in trusted.issuer.algorithms:
            allowed = ", ".join(trusted.issuer.algorithms)
            raise errors.TokenUntrusted(problem=f"of its issuer only what is signed by {allowed} is taken")
        key = await trusted.keys.find(key_id if isinstance(key_id, str) else None, algorithm)
        if key is None:
            raise errors.TokenUntrusted(problem="its issuer has no such key")
        claims = _verified(text, key, trusted.issuer)
        return self._note(token_hash(text), claims, trusted.issuer)

    def _note(self, handle: str, claims: Mapping[str, Any], issuer: Issuer) -> TokenCaller:
        now = self._clock.now()
        expire_time = _check_times(claims, now, timedelta(seconds=issuer.leeway_seconds))
        subject = claims["sub"]
        if not subject.isprintable() or not 0 < len(subject) <= _MOST_SUBJECT:
            raise errors.TokenUntrusted(problem=f"its subject is no plain text of 1 to {_MOST_SUBJECT} characters")
        rule = next((each for each in issuer.rules if each.fits(claims)), None)
        if rule is None:
            raise errors.IdentityWithoutRole(identity=subject[:_SHOWN])
        self._known.pop(handle, None)
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        found = self._known[handle] = TokenCaller(
            proof=Proof.TOKEN,
            name=f"{issuer.issuer} {subject}"[:_SHOWN],
            # Neither an issuer nor a subject can be taken for the other.
            owner=f"token {token_hash(issuer.issuer)} {subject}",
            handle=handle,
            role=Role[rule.role.upper()],
            namespace=rule.scope,
            task_queues=rule.task_queues or None,
            expire_time=expire_time,
            until=time.monotonic() + min(_KNOWN_SECONDS, (expire_time - now).total_seconds()),
        )
        return found


def _read(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A token's header, and what it says, none of it proved. Refuses with TOKEN_MALFORMED."""
    try:
        whole = jwt.decode_complete(text, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise errors.TokenMalformed(problem="it has not the form of a signed token") from None
    claims: Mapping[str, Any] = whole["payload"]
    if not isinstance(claims.get("iss"), str):
        raise errors.TokenMalformed(problem="it has no issuer")
    return whole["header"], claims


def _verified(text: str, key: jwt.PyJWK, issuer: Issuer) -> Mapping[str, Any]:
    """What a token says, proved but for its times. Refuses with TOKEN_UNTRUSTED."""
    algorithms, audience = [key.algorithm_name], list(issuer.audience)
    try:
        return jwt.decode(text, key, algorithms, options=_OPTIONS, audience=audience, issuer=issuer.issuer)
    except jwt.MissingRequiredClaimError as error:
        raise errors.TokenUntrusted(problem=f"it has no claim {error.claim}") from None
    except jwt.InvalidAudienceError:
        raise errors.TokenUntrusted(problem="it is for another audience") from None
    except InvalidSubjectError:
        raise errors.TokenUntrusted(problem="its subject is no text") from None
    except jwt.PyJWTError:
        raise errors.TokenUntrusted(problem="its signature is wrong") from None


def _check_times(claims: Mapping[str, Any], now: datetime, leeway: timedelta) -> datetime:
    """Until when a token is taken. Refuses with TOKEN_EXPIRED, TOKEN_UNTRUSTED."""
    for name in ("nbf", "iat"):
        if name in claims and _time(claims, name) > now + leeway:
            raise errors.TokenUntrusted(problem=f"it is not valid yet: see {name}, and the clocks")
    expire_time = _time(claims, "exp") + leeway
    if expire_time <= now:
        raise errors.TokenExpired
    return expire_time


def _time(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise errors.TokenUntrusted(problem=f"its {name} is no time")
    return datetime.fromtimestamp(min(value, _MOST_SECONDS - 86_400), UTC)
