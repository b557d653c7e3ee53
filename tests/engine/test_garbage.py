"""What a batch held is gone when its callers are answered: nothing of it waits for a garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.engine.code import COMPLETED, Code, activity, complete, local
from tests.engine.replica import MAIN, ref, replica
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.change import Change
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.jobs import NewJob, StartJob
from stepwell_server.engine.reported import Body
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.payloads import NULL


@contextmanager
def no_collections() -> Iterator[None]:
    """What is garbage at first is gone; what becomes garbage stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left() -> list[Change | JobChange]:
    return [each for each in gc.get_objects() if isinstance(each, (Change, JobChange))]


async def test_batches_leave_nothing_of_their_runs_and_jobs(database_url: str) -> None:
    """Started, changed, ended."""
    async with replica(database_url) as server:
        with no_collections():
            before = len(left())
            started = await server.start(workflow_id="w")
            await server.do(SignalRun(ref(started), "s", NULL))
            await server.do(TerminateRun(ref(started), "enough"))
            await server.do(StartJob(NewJob(MAIN, "main", "echo", "q", unique_key="k")))
            server.ears.batches.clear()
            assert len(left()) == before


async def test_a_refused_command_leaves_nothing_either(database_url: str) -> None:
    """The refusal is kept by its caller; the batch in which it was raised is not."""
    async with replica(database_url) as server:
        started = await server.start()
        await server.do(TerminateRun(ref(started), "enough"))
        server.ears.batches.clear()
        with no_collections():
            before = len(left())
            with pytest.raises(errors.SignalRefused) as refused:
                await server.do(SignalRun(ref(started), "s", NULL))
            server.ears.batches.clear()
            assert len(left()) == before
            assert refused.value.phase == "TERMINATED"


@pytest.mark.parametrize("body", [activity(), local()])
def test_a_plain_run_makes_no_container_that_it_does_not_fill(body: Body) -> None:
    """Some forty are there for those who need them: to make them for each command took a tenth of its time."""
    world = World()
    key = world.start()
    code = Code(world, key)
    _made_nothing(world)
    code.run("a", body, waiting=isinstance(body, NewActivity), resident=True)
    _made_nothing(world)
    if isinstance(body, NewActivity):
        grant = world.grant(key, 1)
        assert grant is not None
        world.do(complete(world, grant))
        _made_nothing(world)
    code.end(COMPLETED)
    _made_nothing(world)


def _made_nothing(world: World) -> None:
    assert world.last is not None
    # The task of what is granted in a later batch is dropped from its queue.
    assert [set(change.made) - {"task_drops"} for change in world.last.subjects.runs.values()] == [set()]
