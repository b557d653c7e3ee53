"""What a call comes with, and whose it is by that: a key or a token in `authorization`, or else a certificate.

What is said is taken before what is merely there: who sends `authorization` is who that proves, whatever certificate
the connection has, and if it proves nothing the call is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.api.peers import certificate_names
from stepwell_server.model.api_keys import is_secret
from stepwell_server.model.tokens import looks_like_token

if TYPE_CHECKING:
    from stepwell_server.api.interceptors.around import Context
    from stepwell_server.dispatch.api_keys import KnownKeys
    from stepwell_server.dispatch.callers import Caller, OpenStreams
    from stepwell_server.dispatch.certificates import Certificates
    from stepwell_server.dispatch.tokens import KnownTokens

_SCHEME = "bearer "


class Credentials:
    """See the module. Tokens and certificates are taken where something is set for them."""

    def __init__(
        self,
        streams: OpenStreams,
        keys: KnownKeys,
        tokens: KnownTokens | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self.streams = streams
        self._keys = keys
        self._tokens = tokens
        self._certificates = certificates

    async def caller_of(self, context: Context) -> Caller:
        """Who calls.

        Refuses with API_KEY_MISSING, API_KEY_MALFORMED, and as `KnownKeys`, `KnownTokens` and `Certificates` do.
        """
        text = _bearer_of(context)
        if text is None:
            return self._by_certificate(context)
        if is_secret(text):
            return self._keys.known(text) or await self._keys.learn(text)
        if self._tokens is not None and looks_like_token(text):
            return self._tokens.known(text) or await self._tokens.learn(text)
        raise errors.ApiKeyMalformed

    def _by_certificate(self, context: Context) -> Caller:
        names = certificate_names(context) if self._certificates is not None else ()
        if self._certificates is None or not names:
            raise errors.ApiKeyMissing
        return self._certificates.caller(names)


def _bearer_of(context: Context) -> str | None:
    """What stands behind `Bearer`, or None if the call has no `authorization`. Refuses with API_KEY_MALFORMED."""
    given = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
    if not given:
        return None
    text = given[0]
    if len(given) > 1 or not isinstance(text, str) or text[: len(_SCHEME)].lower() != _SCHEME:
        raise errors.ApiKeyMalformed
    return text[len(_SCHEME) :]
