"""What is done to whom: a replica that is not there any more is not taken for one that was killed on purpose."""

from __future__ import annotations

import random
from pathlib import Path

from stepwell.torture.faults import Kind, Storm
from stepwell.torture.plan import Times
from stepwell.torture.proxy import Proxy
from stepwell.torture.service import OwnService


class Fallen(OwnService):
    """Two replicas, the second of which has ended by itself."""

    def fallen(self) -> list[int]:
        return [1]

    async def kill(self, number: int) -> None:
        pass

    async def begin(self, number: int) -> None:
        pass


async def test_a_replica_that_had_ended_by_itself_is_told(tmp_path: Path) -> None:
    service = Fallen(tmp_path, 2, Times.of(6))
    way = Proxy(lambda: service.places, lambda: "client")
    storm = Storm(random.Random(1), 0.01, 0.1, (), way, service, {Kind.REPLICA_KILLED})
    for number in range(2):
        await storm._struck(Kind.REPLICA_KILLED, f"replica {number}", 0.0)
    assert [fault.problem for fault in storm.faults] == ["", "replica 1 had ended by itself"]
