"""RunService: mending the record of a paused run to fit its code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import repairs_pb2, types_pb2
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.reports import FINGERPRINT_BYTES
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_mends import step_name_from_proto
from stepwell_server.api.run_starts import size_of
from stepwell_server.engine.repairing import Repaired, RepairRun
from stepwell_server.engine.repairs import Accept, Chosen, Rename, Repair, Skip
from stepwell_server.errors import InvalidField

if TYPE_CHECKING:
    from stepwell_server.api.fields import Fields
    from stepwell_server.api.run_values import RunRefs
    from stepwell_server.engine.committer import Committers
    from stepwell_server.model.repairs import RepairedStep

    Context = grpc.aio.ServicerContext[Any, Any]


class RunRepairs:
    """The repairing part of RunService."""

    _committers: Committers
    _fields: Fields
    _refs: RunRefs

    async def RepairRun(self, request: repairs_pb2.RepairRunRequest, context: Context) -> repairs_pb2.RepairRunResponse:
        items = self._fields.items(request.repairs, "repairs", at_least=1)
        command = RepairRun(
            await self._refs.read(request),
            tuple(repair_from_proto(item, self._fields, f"repairs[{place}].") for place, item in enumerate(items)),
            self._fields.remark(request.reason, "reason"),
        )
        asked = asked_of(request, command.ref.namespace_id, Repaired, self._fields)
        repaired = await self._committers.do(Repaired, command, size_of(request), remaining(), asked)
        return repairs_pb2.RepairRunResponse(
            run_id=str(repaired.run_id),
            phase=types_pb2.RunPhase.ValueType(repaired.phase),
            paused=repaired.paused,
            renamed_count=repaired.renamed_count,
            skipped_count=repaired.skipped_count,
            steps=[repaired_to_proto(step) for step in repaired.steps],
        )


def repair_from_proto(item: repairs_pb2.Repair, fields: Fields, at: str) -> Repair:
    """Reads what is to be done."""
    kind = item.WhichOneof("repair")
    if kind is None:
        raise InvalidField(field=f"{at}repair", problem="is required: rename, skip or accept")
    if kind == "accept":
        return Accept()
    if kind == "skip":
        return Skip(_chosen_from_proto(item.skip, fields, f"{at}skip."))
    rename, at = item.rename, f"{at}rename."
    chosen = _chosen_from_proto(rename, fields, at)
    name = fields.text(rename.new_name, "new_name", at)
    if not name and not rename.HasField("fingerprint"):
        raise InvalidField(field=f"{at}new_name", problem="is required, or else fingerprint")
    if len(rename.fingerprint) > FINGERPRINT_BYTES:
        raise InvalidField(field=f"{at}fingerprint", problem=f"may have at most {FINGERPRINT_BYTES} bytes")
    return Rename(chosen, name, rename.fingerprint if rename.HasField("fingerprint") else None)


def _chosen_from_proto(item: repairs_pb2.Repair.Rename | repairs_pb2.Repair.Skip, fields: Fields, at: str) -> Chosen:
    kind = fields.member(item.kind, types_pb2.StepKind, "kind", at)
    if item.HasField("step") and item.every_named:
        raise InvalidField(field=f"{at}every_named", problem="stands in place of step: give one of the two")
    if item.every_named:
        return Chosen(None, fields.name(item.every_named, "every_named", at), kind)
    if not item.HasField("step"):
        raise InvalidField(field=f"{at}step", problem="is required, or else every_named")
    return Chosen(step_name_from_proto(item.step, fields, f"{at}step."), "", kind)


def repaired_to_proto(step: RepairedStep) -> repairs_pb2.RepairedStep:
    """Renders what became of a step."""
    occurrence = None if step.key else step.occurrence
    kind = types_pb2.StepKind.ValueType(step.kind)
    shown = repairs_pb2.RepairedStep(
        ordinal=step.ordinal, scope=step.scope, kind=kind, name=step.name, occurrence=occurrence, key=step.key
    )
    if step.skipped:
        shown.skipped = True
        return shown
    shown.new_name = step.new_name
    if not step.key:
        shown.new_occurrence = step.new_occurrence
    return shown
