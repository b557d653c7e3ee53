"""A whole server, and good requests for each of its methods, which a test then spoils in one place."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tests.hostile.answers import BAD_CODES, statuses
from tests.hostile.methods import SAMPLES, Method, methods

from stepwell.v1 import runs_pb2, types_pb2, workers_pb2
from stepwell_server.service import Service
from stepwell_server.settings import Settings

SPEC = {"cron": "0 0 1 1 *"}
NAMED = {
    "type": "t",
    "name": "x",
    "owner_id": "o",
    "worker_id": "w",
    "holder_id": "h",
    "leadership": "l",
    "step_name": "s",
    "signal_name": "s",
    "query_name": "q",
    "update_name": "u",
    "topic": "t",
    "task_queue": "q",
    "trigger_key": "manual",
    "idempotency_key": "k",
    "seq": 1,
    "archive_uri": "s3://bucket/x",
    "phase": types_pb2.RUN_PHASE_RUNNING,
    "user_id": "u",
}
TIMES = {"fire_time", "schedule_time", "wake_time", "last_time", "cutoff", "start_time"}
LENGTHS = {"ttl", "lease_duration", "timeout", "by"}
"""Fields that are filled wherever they are, since most requests want them."""
SHORT_WAIT = 1.0


Metadata = tuple[tuple[str, str], ...]


class World:
    """See the module. `service` is None where it is another process; `metadata` goes along with each call."""

    def __init__(self, service: Service | None, channel: grpc.aio.Channel, metadata: Metadata = ()) -> None:
        self.service = service
        self.channel = channel
        self.metadata = metadata
        self._methods = {method.name: method for method in methods()}
        self._stubs: dict[str, Any] = {}
        self._count = 0

    async def do(self, name: str, /, **fields: Any) -> Any:
        request = self._methods[name].new()
        request.MergeFrom(type(request)(**fields))
        return await self.send(self._methods[name], request)

    async def send(self, method: Method, request: Message, seconds: float = 60) -> Any:
        if method.service not in self._stubs:
            stubs = importlib.import_module(f"{method.module}_pb2_grpc")
            self._stubs[method.service] = getattr(stubs, f"{method.service}Stub")(self.channel)
        called = getattr(self._stubs[method.service], method.name)
        return await called(request, timeout=seconds, metadata=self.metadata)

    async def outcome(self, method: Method, request: Message, seconds: float = 60) -> str:
        """The code that a call ends with, or that of an answer within it."""
        try:
            answer = await self.send(method, request, seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and "wait" in method.fields:
                return "OK it waits"
            return f"{error.code().name} {error.details()}"
        return next((BAD_CODES[status.code] for status in statuses(answer) if status.code in BAD_CODES), "OK")

    async def good(self, method: Method) -> Any:
        """A request that is accepted, for things of its own."""
        request = method.new()
        fields = method.fields
        own = f"_{method.name}"
        if hasattr(self, own):
            request.MergeFrom(await getattr(self, own)(method))
        for name in fields & NAMED.keys():
            self._fill(request, name, NAMED[name])
        if "run_id" in fields and method.name not in ("StartRun", "CreateRun") and not request.run_id:
            kind = self._driven_run if method.service.endswith("Store") else self._run
            request.run_id = await kind()
        if "job_id" in fields and not method.service.endswith("Store") and method.name != "StartJob":
            request.job_id = (await self.do("StartJob", type="t", task_queue="held")).job_id
        if "session_id" in fields and not request.session_id:
            request.session_id = await self._session()
        for name in fields & TIMES:
            self._fill(request, name, Timestamp(seconds=1_800_000_000))
        for name in fields & LENGTHS:
            self._fill(request, name, Duration(seconds=1))
        if "wait" in fields:
            self._fill(request, "wait", Duration(nanos=10_000_000))
        return request

    def _fill(self, request: Any, name: str, value: Any) -> None:
        field = request.DESCRIPTOR.fields_by_name[name]
        if field.message_type is None and not getattr(request, name):
            setattr(request, name, value)
        elif field.message_type is not None and not request.HasField(name):
            getattr(request, name).CopyFrom(value)

    # --- what requests are about --------------------------------------------------------------------------------------

    def _next(self) -> str:
        self._count += 1
        return f"n{self._count}"

    async def _run(self) -> str:
        return str((await self.do("StartRun", type="t", task_queue="held")).run_id)

    async def _driven_run(self) -> str:
        return str((await self.do("CreateRun", type="t", initial_phase=types_pb2.RUN_PHASE_RUNNING)).run_id)

    async def _session(self) -> str:
        return str((await self.do("OpenSession", hello=self.hello(self._next()))).welcome.session_id)

    def hello(self, queue: str) -> Any:
        """A worker's first words."""
        worker = {**SAMPLES["Hello"], "worker_id": self._next(), "task_queues": [queue]}
        return workers_pb2.Hello(**worker)

    async def _held(self) -> tuple[str, Any]:
        """A session, and a run that it holds."""
        queue = self._next()
        session_id = (await self.do("OpenSession", hello=self.hello(queue))).welcome.session_id
        await self.do("StartRun", type="t", task_queue=queue)
        claimed = await self.do("ClaimTasks", session_id=session_id, task_queue=queue)
        return session_id, claimed.tasks[0].ref

    async def _user_task(self) -> str:
        run_id = await self._driven_run()
        return str((await self.do("CreateUserTask", run_id=run_id, step_name="s")).user_task.task_id)

    async def _schedule(self) -> str:
        name = self._next()
        await self.do("CreateSchedule", schedule={"name": name, "spec": SPEC, "run": {"type": "t"}})
        return name

    async def _activity(self) -> int:
        run_id = await self._driven_run()
        queue = self._next()
        await self.do("CreateActivity", run_id=run_id, seq=1, type="t", task_queue=queue)
        claimed = await self.do("ClaimActivity", task_queue=queue, worker_id="w")
        return int(claimed.activity.activity_number)

    # --- methods that want more than their names tell -----------------------------------------------------------------

    async def _of_activity(self, method: Method) -> Any:
        return type(method.new())(activity_number=await self._activity())

    _CompleteActivity = _HeartbeatActivity = _of_activity

    async def _RequeueActivityForRetry(self, method: Method) -> Any:
        number = await self._activity()
        await self.do("CompleteActivity", activity_number=number, failure={"message": "boom"})
        return type(method.new())(activity_number=number, attempt=2)

    async def _of_step(self, method: Method) -> Any:
        run_id = await self._driven_run()
        begun = await self.do("BeginStep", run_id=run_id, step_name="s")
        return type(method.new())(step_number=begun.step.number)

    _CompleteStep = _FailStep = _of_step

    async def _RecordStepComplete(self, method: Method) -> Any:
        run_id = await self._driven_run()
        await self.do("RecordStepStart", run_id=run_id, step_name="s")
        return type(method.new())(run_id=run_id, state=types_pb2.STEP_STATE_FAILED)

    async def _RetryStep(self, method: Method) -> Any:
        run_id = await self._driven_run()
        await self.do("RecordStepStart", run_id=run_id, step_name="s")
        return type(method.new())(run_id=run_id)

    async def _of_user_task(self, method: Method) -> Any:
        request = type(method.new())(task_id=await self._user_task())
        if method.name == "CompleteUserTask":
            await self.do("ClaimUserTask", task_id=request.task_id, user_id="u")
        if method.name == "UpdateUserTask":
            request.update_mask.paths.extend(["title", "assigned_role_id", "priority", "due_time", "input"])
        return request

    _GetUserTask = _ClaimUserTask = _UnclaimUserTask = _UpdateUserTask = _CompleteUserTask = _of_user_task
    _CancelUserTask = _DeleteUserTask = _of_user_task

    async def _CreateUserTask(self, method: Method) -> Any:
        return type(method.new())(run_id=await self._driven_run())

    async def _of_schedule(self, method: Method) -> Any:
        fields: dict[str, Any] = {"name": await self._schedule()}
        if method.name == "BackfillSchedule":
            fields |= {"start_time": Timestamp(seconds=1_600_000_000), "end_time": Timestamp(seconds=1_700_000_000)}
        return type(method.new())(**fields)

    _GetSchedule = _DeleteSchedule = _PauseSchedule = _ResumeSchedule = _TriggerSchedule = _of_schedule
    _BackfillSchedule = _PreviewSchedule = _RecordScheduleRun = _of_schedule

    async def _CreateSchedule(self, method: Method) -> Any:
        schedule = {"name": self._next(), "spec": SPEC, "run": {"type": "t"}}
        return type(method.new())(schedule=schedule)

    async def _ApplyToRuns(self, method: Method) -> Any:
        return type(method.new())(filter="workflow_id = nobody", signal={"signal_name": "s"}, request_id="r")

    async def _GetRunTimeseries(self, method: Method) -> Any:
        return type(method.new())(
            start_time=Timestamp(seconds=1_700_000_000), end_time=Timestamp(seconds=1_700_100_000)
        )

    async def _UpsertSearchAttributes(self, method: Method) -> Any:
        return type(method.new())(attributes={"a": {"text": "b"}})

    async def _UpdateSchedule(self, method: Method) -> Any:
        schedule = {"name": await self._schedule(), "spec": SPEC, "run": {"type": "t"}}
        return type(method.new())(schedule=schedule, update_mask={"paths": ["spec", "run", "catchup_window"]})

    async def _definition(self) -> str:
        return str((await self.do("CreateDefinition", definition={"code": self._next()})).definition.definition_id)

    async def _CreateDefinition(self, method: Method) -> Any:
        return type(method.new())(definition={"code": self._next()})

    async def _UpdateDefinition(self, method: Method) -> Any:
        definition = {"definition_id": await self._definition()}
        return type(method.new())(definition=definition, update_mask={"paths": ["body", "name"]})

    async def _of_definition(self, method: Method) -> Any:
        return type(method.new())(definition_id=await self._definition())

    _GetDefinition = _DeleteDefinition = _ActivateDefinition = _DeactivateDefinition = _of_definition

    async def _of_code(self, method: Method) -> Any:
        return type(method.new())(code="c")

    _ListDefinitionVersions = _GetDefinitionCode = _of_code

    async def _GetApiKey(self, method: Method) -> Any:
        return type(method.new())(key_id="01890a5d-ac96-774b-bcce-b302099a8057")

    async def _CreateApiKey(self, method: Method) -> Any:
        return type(method.new())(role=1)

    async def _RevokeApiKey(self, method: Method) -> Any:
        return type(method.new())(prefix=self._next())

    async def _ImportApiKey(self, method: Method) -> Any:
        return type(method.new())(key_hash=self._next(), prefix="p")

    async def _ValidateApiKey(self, method: Method) -> Any:
        return type(method.new())(key_hash="h")

    async def _CreateNamespace(self, method: Method) -> Any:
        return type(method.new())(namespace=self._next())

    async def _GetEvent(self, method: Method) -> Any:
        appended = await self.do("AppendEvent", run_id=await self._driven_run(), type="t")
        return type(method.new())(event_number=appended.event_number)

    async def _AppendEvents(self, method: Method) -> Any:
        return type(method.new())(events=[SAMPLES["NewEvent"]])

    async def _PruneEvents(self, method: Method) -> Any:
        return type(method.new())(scope=1)

    async def _UpdateTaskQueue(self, method: Method) -> Any:
        request = type(method.new())(task_queue=self._next(), rate_limit={"per_second": 1.0, "burst": 2})
        request.aging_interval.FromSeconds(60)
        request.fairness.weights["a"] = 2
        request.update_mask.paths.extend(["rate_limit", "aging_interval", "fairness"])
        return request

    async def _UpdateNamespace(self, method: Method) -> Any:
        fields = {"retention": Duration(seconds=86_400 * 365), "update_mask": {"paths": ["retention", "archive_url"]}}
        return type(method.new())(**fields)

    async def _DeleteNamespace(self, method: Method) -> Any:
        name = self._next()
        await self.do("CreateNamespace", namespace=name)
        return type(method.new())(namespace=name)

    async def _GetActivity(self, method: Method) -> Any:
        return type(method.new())(run_id=await self._driven_run())

    async def _SetRunData(self, method: Method) -> Any:
        return type(method.new())(changes=[SAMPLES["RunDataChange"]])

    async def _RewindRun(self, method: Method) -> Any:
        return type(method.new())(step={"name": "x"})

    async def _SettleRunStep(self, method: Method) -> Any:
        return type(method.new())(step={"name": "x"}, complete={"result": {"json": "1"}})

    async def _ForkRun(self, method: Method) -> Any:
        return type(method.new())(step={"name": "x"})

    async def _RepairRun(self, method: Method) -> Any:
        return type(method.new())(repairs=[SAMPLES["Repair"]])

    async def _OpenSession(self, method: Method) -> Any:
        return type(method.new())(hello=self.hello(self._next()))

    async def _ReportTasks(self, method: Method) -> Any:
        session_id, ref = await self._held()
        return type(method.new())(session_id=session_id, reports=[{"correlation": 1, "ref": ref}])

    async def _HeartbeatTasks(self, method: Method) -> Any:
        session_id, ref = await self._held()
        return type(method.new())(session_id=session_id, heartbeats=[{"ref": ref}])

    async def _ListTaskSteps(self, method: Method) -> Any:
        return type(method.new())(ref=(await self._held())[1])

    async def _ClaimTasks(self, method: Method) -> Any:
        queue = self._next()
        session_id = (await self.do("OpenSession", hello=self.hello(queue))).welcome.session_id
        return type(method.new())(session_id=session_id, task_queue=queue)

    async def _Commit(self, method: Method) -> Any:
        return type(method.new())(writes=[{"append_event": {"run_id": await self._driven_run(), "type": "Paid"}}])

    async def _RewindToStep(self, method: Method) -> Any:
        run_id = await self._driven_run()
        await self.do("SaveStep", run_id=run_id, step_name="s", value=types_pb2.Payload(json="1"))
        return type(method.new())(run_id=run_id)

    async def _ended(self, method: Method) -> Any:
        run_id = await self._run()
        await self.do("TerminateRun", run_id=run_id)
        return type(method.new())(run_id=run_id)

    _WaitRun = _DeleteRun = _MarkRunArchived = _ended

    async def _AnnotateDispatch(self, method: Method) -> Any:
        return type(method.new())(job_id="j")

    async def _batch(self, method: Method) -> Any:
        item = {"type": "t"} if method.name != "BatchSignalRuns" else {"run_id": await self._run(), "signal_name": "s"}
        return type(method.new())(requests=[item])

    _BatchStartRuns = _BatchStartJobs = _BatchSignalRuns = _batch

    async def _SignalWithStartRun(self, method: Method) -> Any:
        return runs_pb2.SignalWithStartRunRequest(start={"type": "t", "workflow_id": self._next()})  # type: ignore[arg-type]

    async def _RetryDeadLetter(self, method: Method) -> Any:
        return type(method.new())(number=1)

    _DiscardDeadLetter = _RetryDeadLetter


@asynccontextmanager
async def world(database_url: str, **options: Any) -> AsyncIterator[World]:
    settings = Settings(database_url=database_url, port=0, test_clock=True, shutdown_seconds=1.0, **options)
    async with Service(settings) as service, grpc.aio.insecure_channel(service.address) as channel:
        async with asyncio.timeout(60):
            await service.leader.wait_elected()
        yield World(service, channel)
