"""assay's `WorkflowStore`: its store contract (D1) by name, the part about archiving."""

from __future__ import annotations

import pytest
from tests.parity.cases import Engine, answers
from tests.parity.test_assay import TRAIT, created, read
from tests.parity.test_assay_activities import scheduled

from stepwell import reasons
from stepwell.stores.assay import WorkflowEvent, WorkflowSignal, WorkflowStatus, WorkflowStore, WorkflowTimer

LATER = 4e9


async def completed(engine: Engine, store: WorkflowStore, name: str = "w") -> str:
    """A workflow with all that one may have, that has ended."""
    workflow_id = await created(engine, store, name, status=WorkflowStatus.RUNNING, input="[1]")
    for seq in (1, 2):
        await store.append_event(WorkflowEvent(workflow_id=workflow_id, seq=seq, event_type="T"))
    await scheduled(store, workflow_id)
    await store.create_timer(WorkflowTimer(workflow_id=workflow_id, seq=1, fire_at=LATER))
    await store.send_signal(WorkflowSignal(workflow_id=workflow_id, name="go"))
    await store.create_snapshot(workflow_id, 1, "{}")
    await store.update_workflow_status(workflow_id, WorkflowStatus.COMPLETED, '{"ok":  1}')
    return workflow_id


@answers(TRAIT, "list_archivable_workflows")
async def test_archivable_are_those_that_ended_before(engine: Engine) -> None:
    """Strictly; those that ended first go first, so many at most; with what they came to."""
    store = engine.store(WorkflowStore)
    first, second = await completed(engine, store, "b"), await completed(engine, store, "a")
    await created(engine, store, "open")
    listed = await store.list_archivable_workflows(LATER, 10)
    assert [(each.id, each.input, each.result) for each in listed] == [
        (first, "[1]", '{"ok":  1}'),
        (second, "[1]", '{"ok":  1}'),
    ]
    assert [each.id for each in await store.list_archivable_workflows(LATER, 1)] == [first]
    end = listed[1].completed_at
    assert end is not None
    assert [each.id for each in await store.list_archivable_workflows(end, 10)] == [first]


@answers(TRAIT, "mark_archived_and_purge", "list_archivable_workflows")
async def test_workflow_archival(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await completed(engine, store)
    assert [each.id for each in await store.list_archivable_workflows(LATER, 10)] == [workflow_id]
    await store.mark_archived_and_purge(workflow_id, "s3://bucket/w.json", 1_700_000_000.0)
    archived = await read(store, workflow_id)
    assert (archived.archived_at, archived.archive_uri) == (1_700_000_000.0, "s3://bucket/w.json")
    assert (archived.status, await store.list_events(workflow_id)) == ("COMPLETED", [])
    assert await store.list_archivable_workflows(LATER, 10) == []


@answers(TRAIT, "mark_archived_and_purge")
async def test_archival_end_to_end(engine: Engine) -> None:
    """The record stays; what was its history is gone. A workflow at work is not purged, which assay does."""
    store = engine.store(WorkflowStore)
    workflow_id, working = await completed(engine, store), await created(engine, store, "working")
    await store.mark_archived_and_purge(workflow_id, "s3://bucket/w.json", 1.0)
    assert (await read(store, workflow_id)).archive_uri == "s3://bucket/w.json"
    assert (await store.get_event_count(workflow_id), await store.get_latest_snapshot(workflow_id)) == (0, None)
    assert await store.get_activity_by_workflow_seq(workflow_id, 1) is None
    assert await store.get_timer_by_workflow_seq(workflow_id, 1) is None
    with pytest.raises(reasons.RunNotEnded):
        await store.mark_archived_and_purge(working, "s3://bucket/w.json", 1.0)
