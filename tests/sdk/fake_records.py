"""What the double of the service keeps: runs, activities and sessions."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections import defaultdict, deque

import grpc
from google.rpc import error_details_pb2, status_pb2

from stepwell.v1 import runs_pb2, types_pb2, workers_pb2
from stepwell.v1.types_pb2 import Failure, Payload
from stepwell.v1.workers_pb2 import ConnectResponse, StepRecord, TaskRef

FIRST_END = types_pb2.RUN_PHASE_COMPLETED


def refusal(code: grpc.StatusCode, reason: str, message: str) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="stepwell.dev"))
    return status


@dataclasses.dataclass
class FakeRun:
    request: runs_pb2.StartRunRequest
    run_id: str
    token: int = 0
    holder: Session | None = None
    phase: types_pb2.RunPhase.ValueType = types_pb2.RUN_PHASE_PENDING
    steps: list[StepRecord] = dataclasses.field(default_factory=list)
    result: Payload = dataclasses.field(default_factory=Payload)
    failure: Failure | None = None
    continued_run_id: str = ""
    signals: dict[str, deque[Payload]] = dataclasses.field(default_factory=lambda: defaultdict(deque))
    cancel_reason: str | None = None
    parent: tuple[FakeRun, StepRecord] | None = None
    completions: int = 0
    progresses: list[workers_pb2.Progress] = dataclasses.field(default_factory=list)

    @property
    def ref(self) -> TaskRef:
        return TaskRef(task_id=f"run:{self.run_id}", token=self.token)


@dataclasses.dataclass
class FakeActivity:
    run: FakeRun
    record: StepRecord
    step: workers_pb2.ActivityStep
    token: int = 0
    details: Payload | None = None
    holder: Session | None = None

    @property
    def ref(self) -> TaskRef:
        return TaskRef(task_id=f"act:{self.run.run_id}:{self.record.ordinal}", token=self.token)


class Session:
    def __init__(self, hello: workers_pb2.Hello) -> None:
        self.session_id = str(uuid.uuid4())
        self.hello = hello
        self.out: asyncio.Queue[ConnectResponse | None] = asyncio.Queue()
        self.is_draining = False
