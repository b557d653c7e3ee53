"""All methods by their descriptors, and what a message wants to be a good one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from tests.hostile.values import Place, places, sampled

from stepwell.v1 import repairs_pb2, types_pb2, user_tasks_pb2, workers_pb2

DESCRIBED = FileDescriptorSet.FromString(files("stepwell.v1").joinpath("descriptors.binpb").read_bytes())
SAMPLES: dict[str, dict[str, Any]] = {
    "Activity": {"type": "t"},
    "ActivityStep": {"type": "t"},
    "Capacity": {"kind": workers_pb2.TASK_KIND_RUN, "task_queue": "q", "max_outstanding": 1},
    "ChildStep": {"type": "t"},
    "Hello": {"worker_id": "w", "task_queues": ["q"], "workflow_types": ["t"], "activity_types": ["t"]},
    "MadeCall": {"kind": types_pb2.STEP_KIND_TIMER, "name": "x"},
    "NewEvent": {"type": "t"},
    "NewStep": {"name": "x"},
    "OutcomeStep": {"result": types_pb2.Payload(json="1")},
    "RunDataChange": {"name": "d", "set": types_pb2.Payload(json="1")},
    "Repair": {"accept": repairs_pb2.Repair.Accept()},
    "StartJobRequest": {"type": "t"},
    "StartRunRequest": {"type": "t"},
    "StepName": {"name": "x"},
    "TimerStep": {"duration": Duration(seconds=1)},
    "UserTaskStep": {"spec": user_tasks_pb2.UserTaskSpec(title="t")},
    "WaitStep": {"signal_name": "s"},
}


class Method:
    """One method by descriptor."""

    def __init__(self, service: str, module: str, name: str) -> None:
        self.service, self.module, self.name = service, module, name
        importlib.import_module(f"{module}_pb2")
        pool: Any = descriptor_pool.Default()
        self.descriptor = pool.FindMessageTypeByName(f"stepwell.v1.{name}Request")
        method = pool.FindServiceByName(f"stepwell.v1.{service}").methods_by_name[name]
        self.is_unary = not (method.client_streaming or method.server_streaming)

    def new(self) -> Any:
        return sampled(GetMessageClass(self.descriptor)(), SAMPLES)

    @property
    def fields(self) -> set[str]:
        return set(self.descriptor.fields_by_name)

    @property
    def places(self) -> list[Place]:
        return list(places(self.descriptor))


def methods() -> Iterator[Method]:
    for file in DESCRIBED.file:
        for service in file.service if file.package == "stepwell.v1" else ():
            for method in service.method:
                module = file.name.removesuffix(".proto").replace("/", ".")
                yield Method(service.name, module, method.name)
