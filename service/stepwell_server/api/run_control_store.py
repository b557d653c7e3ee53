"""RunControlStore: idempotency keys, deadlines and requests to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc.aio

from stepwell.v1 import run_control_store_pb2, run_control_store_pb2_grpc, types_pb2
from stepwell_server.api.fields import time, uuid
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import run_to_proto, time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.engine import run_controls
from stepwell_server.engine.run_controls import Stopped
from stepwell_server.errors import InvalidField
from stepwell_server.model.dispatches import IdempotencyKey, folded
from stepwell_server.model.driven import RunOrigin
from stepwell_server.store import dispatches, run_origins
from stepwell_server.store.dispatches import Registered

if TYPE_CHECKING:
    from stepwell_server.store.runs import SeenRun

    Context = grpc.aio.ServicerContext[Any, Any]


class RunControlStoreCalls(StoreCalls, run_control_store_pb2_grpc.RunControlStoreServicer):
    """Registers keys, and notes what controls runs."""

    async def RegisterIdempotencyKey(
        self, request: run_control_store_pb2.RegisterIdempotencyKeyRequest, context: Context
    ) -> run_control_store_pb2.RegisterIdempotencyKeyResponse:
        (type_name, trigger_key, key), run_id = self._key(request), uuid(request.run_id, "run_id")
        space = await self._space(request)
        row = IdempotencyKey(space.namespace_id or 0, type_name, trigger_key, key, run_id, self._clock.now())
        asked = asked_of(request, space.namespace_id, Registered, self._fields)
        answer = await dispatches.register(self._database, row, space.namespace, asked)
        return run_control_store_pb2.RegisterIdempotencyKeyResponse(registered=answer.is_new, run_id=str(answer.run_id))

    async def GetRunByIdempotencyKey(
        self, request: run_control_store_pb2.GetRunByIdempotencyKeyRequest, context: Context
    ) -> run_control_store_pb2.GetRunByIdempotencyKeyResponse:
        key, space = self._key(request), await self._space(request)
        found = await dispatches.find_key(self._database, (space.namespace_id or 0, *key))
        if found is None:
            return run_control_store_pb2.GetRunByIdempotencyKeyResponse(found=False)
        return run_control_store_pb2.GetRunByIdempotencyKeyResponse(
            found=True, run_id=str(found[0]), run_found=found[1]
        )

    async def ConfigureRun(
        self, request: run_control_store_pb2.ConfigureRunRequest, context: Context
    ) -> run_control_store_pb2.ConfigureRunResponse:
        command = run_controls.ConfigureRun(
            await self._refs.read(request),
            self._fields.text(request.trigger_key, "trigger_key"),
            self._fields.text(request.idempotency_key, "idempotency_key"),
            time(request, "deadline"),
            request.token,
        )
        return run_control_store_pb2.ConfigureRunResponse(run_id=str(await self._do(UUID, command, request)))

    async def GetRunControl(
        self, request: run_control_store_pb2.GetRunControlRequest, context: Context
    ) -> run_control_store_pb2.GetRunControlResponse:
        run = await self._seek(request)
        if run is None:
            return run_control_store_pb2.GetRunControlResponse(found=False)
        origins = await run_origins.read(self._database, [run.run_key])
        origin = origins.get(run.run_key) or RunOrigin(run.run_key, run.namespace_id)
        return run_control_store_pb2.GetRunControlResponse(found=True, control=control_to_proto(run, origin))

    async def RequestRunCancel(
        self, request: run_control_store_pb2.RequestRunCancelRequest, context: Context
    ) -> run_control_store_pb2.RequestRunCancelResponse:
        reason = self._fields.remark(request.reason, "reason")
        command = run_controls.RequestRunCancel(await self._refs.read(request), reason)
        answer = await self._do(Stopped, command, request)
        phase = types_pb2.RunPhase.ValueType(answer.phase)
        return run_control_store_pb2.RequestRunCancelResponse(accepted=answer.first, phase=phase)

    async def MarkRunTimedOut(
        self, request: run_control_store_pb2.MarkRunTimedOutRequest, context: Context
    ) -> run_control_store_pb2.MarkRunTimedOutResponse:
        reason = self._fields.remark(request.reason, "reason")
        command = run_controls.MarkRunTimedOut(await self._refs.read(request), reason)
        answer = await self._do(Stopped, command, request)
        phase = types_pb2.RunPhase.ValueType(answer.phase)
        return run_control_store_pb2.MarkRunTimedOutResponse(marked=answer.first, phase=phase)

    def _key(self, request: Any) -> tuple[str, str, str]:  # noqa: ANN401 - any request with a key
        """A type with a trigger and a key as they are compared."""
        type_name = self._fields.name(request.type, "type")
        trigger_key, key = (folded_name(self._fields, request, name) for name in ("trigger_key", "idempotency_key"))
        return type_name, trigger_key, key


def folded_name(fields: Any, request: Any, field: str, at: str = "") -> str:  # noqa: ANN401 - any request that has it
    """A trigger or a key as it is compared, which must not be blank."""
    name = folded(fields.name(getattr(request, field), field, at))
    if not name:
        raise InvalidField(field=at + field, problem="is blank: give it text")
    return name


def control_to_proto(run: SeenRun, origin: RunOrigin) -> run_control_store_pb2.RunControl:
    """Renders what controls a run."""
    shown = run_to_proto(run, "")
    return run_control_store_pb2.RunControl(
        run_id=shown.run_id,
        type=shown.type,
        trigger_key=origin.trigger_key,
        idempotency_key=origin.idempotency_key,
        create_time=time_to_proto(run.create_time),
        deadline=shown.deadline if shown.HasField("deadline") else None,
        cancel_request=shown.cancel_request if shown.HasField("cancel_request") else None,
        timed_out_time=shown.timed_out_time if shown.HasField("timed_out_time") else None,
    )
