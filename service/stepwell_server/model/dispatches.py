"""Dispatches and idempotency keys, which need no run of that id. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec


class Dispatch(msgspec.Struct, frozen=True, gc=False):
    """A row of `dispatches`: a step that was handed to whatever carries its engine's work."""

    namespace_id: int
    run_id: UUID
    step_name: str
    dispatch_time: datetime
    job_id: str
    claim_time: datetime | None


class IdempotencyKey(msgspec.Struct, frozen=True, gc=False):
    """A row of `idempotency_keys`: the run that a trigger with that key sets off. Trigger and key are folded."""

    namespace_id: int
    type: str
    trigger_key: str
    idempotency_key: str
    run_id: UUID
    register_time: datetime

    @property
    def place(self) -> tuple[int, str, str, str]:
        """What makes it unique."""
        return (self.namespace_id, self.type, self.trigger_key, self.idempotency_key)


def folded(text: str) -> str:
    """A trigger or a key as it is compared: without the blanks around it, and without regard to case."""
    return text.strip().lower()
