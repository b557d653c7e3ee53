"""Certificates of clients: what their names allow. That a certificate is good, its connection has found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.dispatch.callers import Caller, Proof
from stepwell_server.model.api_keys import Role
from stepwell_server.trust import fits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.trust import CertificateRule


class Certificates:
    """Callers by the names of their certificates: the first rule that fits one of them counts."""

    def __init__(self, rules: Sequence[CertificateRule]) -> None:
        self._rules = tuple(rules)

    def caller(self, names: Sequence[str]) -> Caller:
        """Who holds a certificate of those names. Refuses with IDENTITY_WITHOUT_ROLE."""
        for rule in self._rules:
            for name in names:
                # What is no plain text is nobody's name.
                if fits(rule.name, name) and name.isprintable():
                    return Caller(
                        proof=Proof.CERTIFICATE,
                        name=name,
                        owner=f"certificate {name}",
                        handle=f"certificate {name}",
                        role=Role[rule.role.upper()],
                        namespace=rule.scope,
                        task_queues=rule.task_queues or None,
                    )
        raise errors.IdentityWithoutRole(identity=names[0])
