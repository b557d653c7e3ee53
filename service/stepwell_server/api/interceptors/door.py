"""Who is let in, and what is told of it: the interceptors of access and audit, put together as the settings have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.api.interceptors.access import AccessControl
from stepwell_server.api.interceptors.audit import Audit
from stepwell_server.api.interceptors.credentials import Credentials
from stepwell_server.dispatch.callers import OpenStreams
from stepwell_server.dispatch.certificates import Certificates
from stepwell_server.telemetry.audit import AuditLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.api.methods import Interceptor
    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.api_keys import KnownKeys
    from stepwell_server.dispatch.tokens import KnownTokens
    from stepwell_server.settings import Settings


class Door:
    """See the module. `streams` are those that are open; `tokens` is None where no issuer is trusted."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self.streams = OpenStreams()
        self.tokens = _known_tokens(settings, clock)
        self._log: AuditLog | None = None

    def interceptors(self, keys: KnownKeys) -> Sequence[Interceptor]:
        """The interceptors, the outermost first. Raises OSError if the file of the audit log can't be opened."""
        settings = self._settings
        self._log = AuditLog(settings.audit_file)
        audit = Audit(settings.audit, self._log.write)
        if not settings.require_keys:
            return [audit]
        rules = settings.certificate_rules
        credentials = Credentials(self.streams, keys, self.tokens, Certificates(rules) if rules else None)
        return [audit, AccessControl(credentials, audit.refusals_of, open_reflection=settings.open_reflection)]

    def close(self) -> None:
        """Closes the audit log."""
        if self._log is not None:
            self._log.close()


def _known_tokens(settings: Settings, clock: Clock) -> KnownTokens | None:
    if not settings.jwt_issuers:
        return None
    from stepwell_server.dispatch.tokens import KnownTokens  # noqa: PLC0415 - only who trusts issuers needs it

    return KnownTokens(settings.jwt_issuers, clock)
