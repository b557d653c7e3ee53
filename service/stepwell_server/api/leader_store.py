"""LeaderStore: leadership of outside engines."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import leader_store_pb2, leader_store_pb2_grpc
from stepwell_server.api.fields import seconds
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.errors import InvalidField
from stepwell_server.store import leaderships

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_SHORTEST_TTL = 0.001


class LeaderStoreCalls(StoreCalls, leader_store_pb2_grpc.LeaderStoreServicer):
    """Elects one of an engine's processes."""

    async def AcquireLeadership(
        self, request: leader_store_pb2.AcquireLeadershipRequest, context: Context
    ) -> leader_store_pb2.AcquireLeadershipResponse:
        name = self._fields.name(request.leadership, "leadership")
        holder_id = self._fields.name(request.holder_id, "holder_id")
        ttl = seconds(request, "ttl", at_least=_SHORTEST_TTL)
        if ttl is None:
            raise InvalidField(field="ttl", problem="is required: say for how long")
        space, now = await self._space(request), self._clock.now()
        namespace_id, expire_time = space.namespace_id or 0, now + timedelta(seconds=ttl)
        led = await leaderships.acquire(self._database, namespace_id, name, holder_id, expire_time, now)
        leader = led or await leaderships.read(self._database, namespace_id, name)
        return leader_store_pb2.AcquireLeadershipResponse(
            acquired=led is not None,
            token=led.token if led is not None else 0,
            holder_id=leader.holder if leader is not None else "",
            expire_time=time_to_proto(leader.expire_time) if leader is not None else None,
        )
