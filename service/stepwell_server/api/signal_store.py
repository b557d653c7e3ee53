"""SignalStore: signals of driven runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import signal_store_pb2, signal_store_pb2_grpc
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.api.run_starts import size_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.api.signal_waiters import SignalWaiters
from stepwell_server.engine.driven_events import ConsumeSignals
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.ids import pack
from stepwell_server.model.runs import RunRef
from stepwell_server.model.signals import Signal
from stepwell_server.store import event_store, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.model.payloads import Payload
    from stepwell_server.store.event_store import Waiting

    Context = grpc.aio.ServicerContext[Any, Any]

_SIGNAL_BYTES = 512


class SignalStoreCalls(SignalWaiters, signal_store_pb2_grpc.SignalStoreServicer):
    """Sends signals and takes them."""

    async def SendSignal(
        self, request: signal_store_pb2.SendSignalRequest, context: Context
    ) -> signal_store_pb2.SendSignalResponse:
        name = self._fields.name(request.signal_name, "signal_name")
        payload = payload_from_proto(request.payload, self._fields, "payload")
        request_id = self._fields.text(request.request_id, "request_id") or None
        command = SignalRun(await self._refs.read(request), name, payload, request_id)
        # The signal keeps its id itself, for as long as its run is open and a day beyond.
        answer = await self._committers.do(Signalled, command, size_of(request), remaining())
        return signal_store_pb2.SendSignalResponse(signal_number=answer.number, recorded=answer.recorded)

    async def ConsumeSignals(
        self, request: signal_store_pb2.ConsumeSignalsRequest, context: Context
    ) -> signal_store_pb2.ConsumeSignalsResponse:
        name = self._fields.name(request.signal_name, "signal_name")
        run = await runs.find(self._database, await self._refs.read(request))
        ref, most = RunRef(run.namespace_id, request.namespace, run_key=run.run_key), self._fields.limits.set_runs
        while True:
            # What is taken must fit the answer, or it would be lost: it is measured first.
            waiting = await event_store.waiting_signals(self._database, run.run_key, name, most + 1)
            chosen = frozenset(_fitting(waiting[:most], self._fields.limits.message_bytes - MESSAGE_MARGIN))
            command = ConsumeSignals(ref, name, chosen, request.token)
            taken: list[Signal] = await self._do(list, command, request, list[Signal])
            if taken or not chosen or request.request_id:
                break
        # A repeat is answered with what was taken then, also of a run that had the name then.
        run_key = taken[0].run_key if taken else run.run_key
        payloads = await event_store.payloads(self._database, run_key, [signal.event for signal in taken])
        signals = [signal_to_proto(signal, payloads.get(signal.event)) for signal in taken]
        left = {signal.ordinal for signal in waiting} - {signal.ordinal for signal in taken}
        return signal_store_pb2.ConsumeSignalsResponse(signals=signals, has_more=bool(left))


def _fitting(waiting: Sequence[Waiting], most_bytes: int) -> list[int]:
    """The first of the signals, as many as fit one answer, and at least one."""
    total = 0
    fitting: list[int] = []
    for signal in waiting:
        total += signal.size + _SIGNAL_BYTES
        if total > most_bytes and fitting:
            break
        fitting.append(signal.ordinal)
    return fitting


def signal_to_proto(signal: Signal, payload: Payload | None) -> signal_store_pb2.Signal:
    """Renders a signal that was taken."""
    return signal_store_pb2.Signal(
        signal_number=pack(signal.run_key, signal.ordinal),
        signal_name=signal.name,
        payload=payload_to_proto(payload),
        receive_time=time_to_proto(signal.receive_time),
    )
