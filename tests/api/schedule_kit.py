"""A service that fires schedules, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from tests.loops.rig import rig_settings

from stepwell.v1 import namespaces_pb2_grpc, runs_pb2, runs_pb2_grpc, schedules_pb2, types_pb2
from stepwell.v1.schedules_pb2_grpc import ScheduleServiceStub
from stepwell_server.clock import TestClock
from stepwell_server.service import Service

P = schedules_pb2
QUICK = {"test_clock": True, "schedule_poll_seconds": 0.05}
HOUR = timedelta(hours=1)


class World:
    """A service, its stubs, and what a test asks of them."""

    def __init__(self, service: Service, channel: Any) -> None:
        self.service = service
        self.calls: Any = ScheduleServiceStub(channel)
        self.runs: Any = runs_pb2_grpc.RunServiceStub(channel)
        self.namespaces: Any = namespaces_pb2_grpc.NamespaceServiceStub(channel)

    async def create(self, name: str = "nightly", cron: str = "0 * * * *", **fields: Any) -> Any:
        run = fields.pop("run", runs_pb2.StartRunRequest(type="t", input=types_pb2.Payload(json="1")))
        next_time, spec = fields.pop("next_time", None), fields.pop("spec", P.ScheduleSpec(cron=cron))
        made = P.Schedule(name=name, spec=spec, run=run, **fields)
        return (await self.calls.CreateSchedule(P.CreateScheduleRequest(schedule=made, next_time=next_time))).schedule

    async def get(self, name: str = "nightly") -> Any:
        return (await self.calls.GetSchedule(P.GetScheduleRequest(name=name))).schedule

    def advance(self, by: timedelta) -> None:
        clock = self.service.clock
        assert isinstance(clock, TestClock)
        clock.advance(by)
        self.service.duties.schedules.wake()

    async def past(self, name: str = "nightly") -> Any:
        """The schedule, once the leader has looked at all that is due by now."""

        async def looked() -> Any:
            found = await self.get(name)
            soon = found.next_time.ToDatetime(UTC) > self.service.clock.now()
            return found if soon or not found.HasField("next_time") else None

        return await eventually(looked)

    async def started(self, name: str = "nightly") -> list[Any]:
        """The schedule's runs, oldest first."""
        listed = await self.runs.ListRuns(runs_pb2.ListRunsRequest(correlation_id=name))
        return list(reversed(listed.runs))

    async def end(self, run_id: str) -> None:
        assert (await self.runs.TerminateRun(runs_pb2.TerminateRunRequest(run_id=run_id))).accepted


async def eventually(look: Any) -> Any:
    """What another task does in its own time."""
    async with asyncio.timeout(60):
        while not (found := await look()):  # noqa: ASYNC110 - the service is remote
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def scheduling(database_url: str, **settings: Any) -> AsyncIterator[World]:
    """A service that leads, and so fires."""
    async with (
        Service(rig_settings(database_url, **QUICK, **settings)) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        await service.leader.wait_elected()
        yield World(service, channel)


def stamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made
