"""What of the stores removes runs: FlowOrchestrator's clean-up, Vyuh's deletion of an instance."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from tests.parity.cases import Engine, answers

from stepwell.v1 import mirrors_pb2

ASSAY = mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE
FLOW, VYUH = mirrors_pb2.TRAIT_FLOW_RUN_STORE, mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE


async def ended(engine: Engine, workflow_id: str) -> str:
    run_id = await engine.create(workflow_id)
    await engine.call("SaveStep", run_id=run_id, step_name="s")
    await engine.call("AppendEvent", run_id=run_id, type="e")
    await engine.call("MarkRunCompleted", run_id=run_id)
    return run_id


@answers(FLOW, "CleanupAsync")
async def test_clean_up(engine: Engine) -> None:
    """Strictly older than the cutoff, with all that is theirs; what runs is never touched."""
    first, second, running = await ended(engine, "a"), await ended(engine, "b"), await engine.create("c")
    end = (await engine.call("ReadRun", run_id=second)).run.end_time
    cleaned = await engine.call("CleanUpRuns", cutoff=end)
    assert (cleaned.count, cleaned.next_page_token) == (1, "")
    assert not (await engine.call("ReadRun", run_id=first)).found
    assert (await engine.call("CountEvents", run_id=first)).count == 0
    assert (await engine.call("CleanUpRuns", cutoff=Timestamp(seconds=end.seconds + 1))).count == 1
    assert (await engine.call("ReadRun", run_id=running)).found


@answers(VYUH, "instances.delete")
async def test_delete_an_instance(engine: Engine) -> None:
    await ended(engine, "i")
    assert (await engine.call("DeleteRun", workflow_id="i")).deleted
    assert not (await engine.call("DeleteRun", workflow_id="i")).deleted
    assert not (await engine.call("ReadRun", workflow_id="i")).found


@answers(ASSAY, "list_archivable_workflows")
async def test_list_archivable_workflows(engine: Engine) -> None:
    """Terminal, strictly before the cutoff, not archived, oldest end first, so many at most."""
    first, second = await ended(engine, "b"), await ended(engine, "a")
    await engine.create("open")
    end = (await engine.call("ReadRun", run_id=second)).run.end_time
    after = Timestamp(seconds=end.seconds + 1)
    listed = (await engine.call("ListArchivableRuns", cutoff=after, page_size=10)).runs
    assert [(run.run_id, run.workflow_id) for run in listed] == [(first, "b"), (second, "a")]
    assert [run.run_id for run in (await engine.call("ListArchivableRuns", cutoff=end)).runs] == [first]
    assert [run.run_id for run in (await engine.call("ListArchivableRuns", cutoff=after, page_size=1)).runs] == [first]


@answers(ASSAY, "mark_archived_and_purge")
async def test_mark_archived_and_purge(engine: Engine) -> None:
    """The record stays with its archive fields; events and steps are gone, and it is archivable no more."""
    run_id, at = await ended(engine, "w"), Timestamp(seconds=1_700_000_000)
    marked = await engine.call("MarkRunArchived", workflow_id="w", archive_uri="s3://bucket/w.json", archive_time=at)
    assert marked.archived
    run = (await engine.call("ReadRun", run_id=run_id)).run
    assert (run.archive_uri, run.archive_time) == ("s3://bucket/w.json", at)
    assert (await engine.call("CountEvents", run_id=run_id)).count == 0
    assert not (await engine.call("ListArchivableRuns", cutoff=Timestamp(seconds=4_000_000_000))).runs
    assert not (await engine.call("MarkRunArchived", workflow_id="unknown", archive_uri="s3://x")).archived
