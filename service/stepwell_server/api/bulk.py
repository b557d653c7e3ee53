"""BulkService: the same change for many runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import bulk_pb2, bulk_pb2_grpc
from stepwell_server.api.fields import Fields
from stepwell_server.api.filters import read_filter
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.interceptors.errors import as_refusal
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import payload_from_proto
from stepwell_server.api.run_starts import size_of
from stepwell_server.api.run_values import each
from stepwell_server.engine import runs
from stepwell_server.engine.mending import Mended, RetryRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.errors import InvalidField
from stepwell_server.model.runs import LISTED, RETRIED, TERMINAL, Phase, RunRef
from stepwell_server.store import run_lists

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from stepwell_server.engine.commands import Command
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces
    from stepwell_server.store.runs import SeenRun

    Context = grpc.aio.ServicerContext[Any, Any]

_AT_ONCE = 64
"""Of one call, so that ordinary traffic finds its place between them."""
_MOST_SHOWN = 20
_OPEN = tuple(phase for phase in Phase if phase not in TERMINAL)


class Bulk(bulk_pb2_grpc.BulkServiceServicer):
    """Finds runs, and gives each the command of the single call."""

    def __init__(self, committers: Committers, database: Database, namespaces: Namespaces, settings: Settings) -> None:
        self._committers = committers
        self._database = database
        self._namespaces = namespaces
        self._fields = Fields(settings.limits)

    async def ApplyToRuns(self, request: bulk_pb2.ApplyToRunsRequest, context: Context) -> bulk_pb2.ApplyToRunsResponse:
        namespace = self._fields.namespace(request.namespace)
        command = command_from_proto(request, self._fields)
        where = read_filter(request.filter, LISTED, self._fields.limits)
        if where is None:
            raise InvalidField(field="filter", problem="is required: say which runs, as create_time > ... for all")
        phases = tuple(RETRIED) if request.WhichOneof("operation") == "retry" else _OPEN
        page = read_page(request, int, self._fields.limits)
        wanted = run_lists.RunFilter(await self._namespaces.id_of(namespace), phases, where=where)
        place = None if page.after is None else (page.after,)
        found = await run_lists.page(self._database, wanted, (), place, page.fetch, 0)
        shown = found[: page.size]
        response = bulk_pb2.ApplyToRunsResponse(
            matched_count=len(shown),
            run_ids=[str(run.run_id) for run in shown[:_MOST_SHOWN]],
            next_page_token=page.token(shown[-1].run_key) if len(found) > page.size else "",
        )
        if not request.dry_run:
            refs = [RunRef(run.namespace_id, namespace, run_key=run.run_key) for run in shown]
            _count(await self._apply(command, refs, size_of(request)), shown, response)
        return response

    async def _apply(self, command: Callable[[RunRef], Command], refs: Sequence[RunRef], size: int) -> list[object]:
        def submit(_: int, ref: RunRef) -> asyncio.Future[object]:
            return self._committers.submit(command(ref), size, remaining())

        answers: list[object] = []
        for first in range(0, len(refs), _AT_ONCE):
            answers.extend(await each(refs[first : first + _AT_ONCE], submit))
        return answers


def command_from_proto(request: bulk_pb2.ApplyToRunsRequest, fields: Fields) -> Callable[[RunRef], Command]:
    """Reads what is to be done with each run."""
    match request.WhichOneof("operation"):
        case "cancel":
            reason = fields.remark(request.cancel.reason, "cancel.reason")
            return lambda ref: runs.CancelRun(ref, reason)
        case "terminate":
            reason = fields.remark(request.terminate.reason, "terminate.reason")
            return lambda ref: runs.TerminateRun(ref, reason)
        case "pause":
            reason = fields.remark(request.pause.reason, "pause.reason")
            return lambda ref: runs.PauseRun(ref, reason)
        case "resume":
            accept_order = request.resume.accept_order
            return lambda ref: runs.ResumeRun(ref, accept_order)
        case "signal":
            name = fields.name(request.signal.signal_name, "signal.signal_name")
            payload = payload_from_proto(request.signal.payload, fields, "signal.payload")
            signal_id = fields.name(request.request_id, "request_id")
            return lambda ref: SignalRun(ref, name, payload, signal_id)
        case "retry":
            reason = fields.remark(request.retry.reason, "retry.reason")
            return lambda ref: RetryRun(ref, (), reason)
    raise InvalidField(field="operation", problem="is required: cancel, terminate, pause, resume, signal or retry")


def _count(answers: Sequence[object], shown: Sequence[SeenRun], response: bulk_pb2.ApplyToRunsResponse) -> None:
    refusals: dict[str, bulk_pb2.ApplyToRunsResponse.Refusal] = {}
    for run, answer in zip(shown, answers, strict=True):
        if isinstance(answer, Exception):
            refusal = as_refusal(answer, "ApplyToRuns")
            told = refusals.get(refusal.reason)
            if told is None:
                told = refusals[refusal.reason] = response.refusals.add(reason=refusal.reason, text=str(refusal))
            told.count += 1
            if len(told.run_ids) < _MOST_SHOWN:
                told.run_ids.append(str(run.run_id))
        elif _is_change(answer):
            response.changed_count += 1
        else:
            response.unchanged_count += 1


def _is_change(answer: object) -> bool:
    match answer:
        case runs.Steered():
            return answer.accepted
        case Signalled():
            return answer.recorded
        case Mended():
            return True
    raise TypeError(f"answered with {type(answer).__name__}")
