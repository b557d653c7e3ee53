"""ExplanationService: why a run or a job does not move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import concurrency_pb2, explanations_pb2, explanations_pb2_grpc
from stepwell_server.api.explanation_values import Around, explain_job, explain_run, tell_of_leader
from stepwell_server.api.fields import Fields, uuid
from stepwell_server.api.job_values import whole_job_to_proto
from stepwell_server.api.run_values import MESSAGE_MARGIN, RunRefs, step_to_proto, whole_run_to_proto
from stepwell_server.model.jobs import JobRef
from stepwell_server.model.steps import ENDED, StepState
from stepwell_server.store import concurrency, explanations, jobs, key_buckets, queue_settings, runs, steps, task_queues

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.settings import Settings
    from stepwell_server.store.crews import Crews
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_MOST_STEPS = 100
_OPEN = tuple(state for state in StepState if state not in ENDED)


class Explanations(explanations_pb2_grpc.ExplanationServiceServicer):
    """Reads, and changes nothing."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        namespaces: Namespaces,
        crews: Crews,
        clock: Clock,
        real_clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._namespaces = namespaces
        self._crews = crews
        self._clock = clock
        self._real_clock = real_clock
        self._schema = settings.database_schema
        self._fields = Fields(settings.limits)
        self._refs = RunRefs(self._fields, namespaces)

    async def ExplainRun(
        self, request: explanations_pb2.ExplainRunRequest, context: Context
    ) -> explanations_pb2.ExplainRunResponse:
        ref = await self._refs.read(request)
        whole = await runs.read(self._database, ref)
        key, namespace_id = whole.run.run_key, whole.run.namespace_id
        wanted = steps.StepFilter(_OPEN)
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN
        page = await steps.page(self._database, key, wanted, None, _MOST_STEPS, most_bytes)
        shown = [step_to_proto(step) for step in page.steps]
        ready = await explanations.queued(self._database, key, [0, *(step.ordinal for step in shown)])
        queues = {whole.run.task_queue, *(step.task_queue for step in shown if step.ordinal in ready)} if ready else ()
        run = whole_run_to_proto(whole, ref.namespace)
        waits = run.slot_state == concurrency_pb2.SLOT_STATE_AWAITED
        position = await concurrency.position(self._database, key) if waits else None
        left = await explanations.left(self._database, key, self._real_clock.now())
        around = (await self._around(namespace_id, queues, run.fairness_key))._replace(position=position, left=left)
        found = explain_run(run, shown, ready, around)
        await self._tell_of_leader(found)
        return explanations_pb2.ExplainRunResponse(run_id=run.run_id, explanations=found, more_steps=page.has_more)

    async def ExplainJob(
        self, request: explanations_pb2.ExplainJobRequest, context: Context
    ) -> explanations_pb2.ExplainJobResponse:
        namespace = self._fields.namespace(request.namespace)
        namespace_id = await self._namespaces.id_of(namespace)
        whole = await jobs.read(self._database, JobRef(namespace_id, namespace, job_id=uuid(request.job_id, "job_id")))
        queues = [whole.job.task_queue] if whole.ready_time is not None else []
        job = whole_job_to_proto(whole, namespace)
        around = await self._around(namespace_id, queues, job.fairness_key)
        if await explanations.is_job_left(self._database, whole.job.job_key, self._real_clock.now()):
            around = around._replace(left={0})
        found = explain_job(job, whole.ready_time, around)
        await self._tell_of_leader(found)
        return explanations_pb2.ExplainJobResponse(explanations=found)

    async def _tell_of_leader(self, found: Sequence[explanations_pb2.Explanation]) -> None:
        if any(each.code == explanations_pb2.Explanation.CODE_OVERDUE for each in found):
            tell_of_leader(found, is_led=await explanations.is_led(self._database, self._schema))

    async def _around(self, namespace_id: int, queues: Iterable[str], key: str) -> Around:
        names = sorted(queues)
        waiting = await task_queues.backlogs(self._database, namespace_id, names)
        settings = await queue_settings.read(self._database, namespace_id, names)
        limited = [name for name, found in settings.items() if found.key_rate_limit is not None]
        buckets = await key_buckets.read(self._database, namespace_id, limited, key)
        return Around(await self._crews.of(namespace_id), waiting, settings, self._clock.now(), buckets)
