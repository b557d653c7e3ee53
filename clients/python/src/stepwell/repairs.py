"""Repairs of a run's record, where its code was changed on purpose while it was under way.

    await handle.repair(Rename("load", "fetch", every=True), Skip(7), reason="release 12")

A single step is named by its ordinal, or by its name in a branch (default: the run's own line, the first of that name).
With `every` all steps of the name are meant, in all branches.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from stepwell.v1 import repairs_pb2

__all__ = ["Rename", "Repair", "Skip"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Chosen:
    """Which recorded steps are meant."""

    step: int | str

    def _spell(self, *, every: bool, scope: str, occurrence: int, key: str) -> dict[str, Any]:
        step = self.step
        if every:
            if not isinstance(step, str):
                raise TypeError("every step of a name is meant: give the name")
            return {"every_named": step}
        if isinstance(step, int):
            return {"step": repairs_pb2.StepName(ordinal=step)}
        return {"step": repairs_pb2.StepName(scope=scope, name=step, occurrence=occurrence, key=key)}


@dataclasses.dataclass(frozen=True, slots=True)
class Rename(_Chosen):
    """Steps that the code calls by the name `to` now: it gets what is recorded.

    `fingerprint` is for code that gives one: bytes, `b""` for none any more, `None` (default) as recorded.
    """

    to: str = ""
    _: dataclasses.KW_ONLY
    every: bool = False
    scope: str = ""
    occurrence: int = 0
    key: str = ""
    fingerprint: bytes | None = None

    def to_proto(self) -> repairs_pb2.Repair:
        """Spells it as the service has it."""
        steps = self._spell(every=self.every, scope=self.scope, occurrence=self.occurrence, key=self.key)
        return repairs_pb2.Repair(
            rename=repairs_pb2.Repair.Rename(**steps, new_name=self.to, fingerprint=self.fingerprint)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Skip(_Chosen):
    """Steps that the code does not call any more: they leave the record, and open ones are cancelled."""

    _: dataclasses.KW_ONLY
    every: bool = False
    scope: str = ""
    occurrence: int = 0
    key: str = ""

    def to_proto(self) -> repairs_pb2.Repair:
        """Spells it as the service has it."""
        steps = self._spell(every=self.every, scope=self.scope, occurrence=self.occurrence, key=self.key)
        return repairs_pb2.Repair(skip=repairs_pb2.Repair.Skip(**steps))


Repair = Rename | Skip
