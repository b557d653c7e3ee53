"""Vyuh's `transaction`: its contract case."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest
from tests.parity.cases import Engine, answers

from stepwell.v1 import mirrors_pb2, types_pb2

TRAIT = mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE


@answers(TRAIT, "transaction")
async def test_transaction_rollback_leaves_nothing(engine: Engine) -> None:
    """What is refused at its last write has done none of those before; what is accepted has done all."""
    first, second = await engine.create("one"), await engine.create("two")
    writes: list[dict[str, Any]] = [
        {"append_event": {"run_id": first, "type": "Paid"}},
        {"mark_run_completed": {"run_id": second, "result": {"json": "1"}}},
        {"append_event": {"run_id": second, "type": "Late"}},
    ]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await engine.call("Commit", writes=writes)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    for run_id in (first, second):
        assert (await engine.call("CountEvents", run_id=run_id)).count == 1
    committed = await engine.call("Commit", writes=writes[:2])
    appended, completed = committed.results
    assert (appended.append_event.number, completed.mark_run_completed.run_id) == (2, second)
    assert (await engine.call("CountEvents", run_id=first)).count == 2
    run = (await engine.call("ReadRun", run_id=second)).run
    assert (run.phase, run.result.json) == (types_pb2.RUN_PHASE_COMPLETED, "1")
