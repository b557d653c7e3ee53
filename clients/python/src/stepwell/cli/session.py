"""One command's connection, and its errors as a person reads them."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, NoReturn

from stepwell import errors, reasons
from stepwell.sync import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.tls import Tls

_ADVICE: dict[type[errors.StepwellError], str] = {
    reasons.ApiKeyRevoked: "ask for another key",
    reasons.ApiKeyExpired: "ask for another key",
    reasons.NamespaceDenied: "the key is for another namespace: give that by --namespace, or another key",
    reasons.TaskQueueDenied: "name another queue, or ask for a key that takes from it",
    reasons.TokenExpired: "get a new token",
    reasons.IdentityWithoutRole: "ask for a rule that gives you a role: docs/security.md",
    errors.Unauthenticated: "give a key by --api-key or STEPWELL_API_KEY",
    errors.PermissionDenied: "this key may not; ask for one that may",
    errors.Unimplemented: "the service is older than this command, or does not offer this yet",
    reasons.ApiKeyAmbiguous: "name it by its id: `stepwell key list -o json`",
    reasons.ApiKeysNotRequired: "make it where the database is: `stepwell-server keys create`",
    reasons.NamespaceNotFound: "see `stepwell namespace list`, or make it by `stepwell namespace create`",
    reasons.NamespaceNotEmpty: "end and remove its runs first: `stepwell run list`",
    reasons.RunNotFound: "see `stepwell run list`; --namespace names another namespace",
    reasons.WorkflowIdInUse: "wait for that run, or give --conflict use_existing",
    reasons.JobNotFound: "see `stepwell job list`; --namespace names another namespace",
    reasons.UniqueKeyInUse: "wait for that job, or give --conflict use_existing",
    reasons.JobNotFailed: "see how it is: `stepwell job show`",
    reasons.ScheduleNotFound: "see `stepwell schedule list`; --namespace names another namespace",
    reasons.ScheduleExists: "give another name, or change it by `stepwell schedule update`",
    reasons.RunTerminal: "see how it ended: `stepwell run show`",
    reasons.NothingPublished: "ask again once a worker has it (`stepwell run show`), or let its code publish that",
    reasons.SignalRefused: "see how it ended: `stepwell run show`",
    reasons.RunPaused: "see why, and what may come next: `stepwell run show`",
    reasons.RunNotPaused: "pause it, then repair it, then resume it: `stepwell run pause`",
    reasons.RepairDisagrees: "see both sides by `stepwell run show`; --accept if the code was mended, too",
}


class Session:
    """How to reach the service."""

    def __init__(self, address: str, *, namespace: str, api_key: str | None, tls: Tls | None) -> None:
        """Keeps the options; without `tls` all travels in the clear."""
        self._address = address
        self.namespace = namespace
        self.api_key = api_key
        self._tls = tls

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is to be."""
        return self._tls is not None

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Connects for one command; an error ends it with a text that says what to do."""
        try:
            with Client.connect(
                self._address,
                namespace=self.namespace,
                api_key=self.api_key,
                tls=self._tls or False,
                connect_timeout=5,
                call_timeout=20,
            ) as client:
                yield client
        except errors.StepwellError as error:
            fail(str(error), _advice(error))


def _advice(error: errors.StepwellError) -> str:
    return next((advice for cls, advice in _ADVICE.items() if isinstance(error, cls)), "")


def fail(message: str, advice: str = "") -> NoReturn:
    """Ends the command with an error."""
    print(f"error: {message}" + (f"\n  {advice}" if advice else ""), file=sys.stderr)
    sys.exit(1)
