"""What comes twice, late, out of date or not at all, of runs: assigns, news, progresses and their answers."""

from __future__ import annotations

import asyncio

from stepwell.conformance.cases import case
from stepwell.conformance.delivery_cases import NEVER, never, not_now, refuse_once, was_patient
from stepwell.conformance.link import Link
from stepwell.conformance.stage import Stage
from stepwell.v1.types_pb2 import STEP_KIND_WAIT, STEP_STATE_COMPLETED
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse, Report, ReportResult, RevokeTask, Task, TaskRef


@case("workflows", "words")
async def duplicate_assign_of_a_run(stage: Stage) -> None:
    """An assign of a run that comes twice is one grant: the code goes on where it waits, and nothing is said of it."""
    given: list[Task] = []

    def keep(_: Link, message: ConnectResponse) -> None:
        given.extend(message.assigns)

    stage.tap.on_response.append(keep)
    run = await stage.run("ordered")
    grant = await stage.resident(run)
    sent = len(stage.reports(grant.task.ref))
    await stage.link.tell(ConnectResponse(assigns=given))
    await asyncio.sleep(0.5)
    stage.same("reports after it", 0, len(stage.reports(grant.task.ref)) - sent)
    await run.signal("go")
    stage.same("ordered returns", "ordered", await stage.result(run))


@case("workflows", "runs")
async def stale_advance(stage: Stage) -> None:
    """News of a run under an older token, or a word that revokes such a one, does not reach its code."""
    run = await stage.run("waiter")
    grant = await stage.resident(run)
    older = TaskRef(task_id=grant.task.ref.task_id, token=grant.task.ref.token - 1)
    sent = len(stage.reports(grant.task.ref))
    stale = ConnectResponse(revokes=[RevokeTask(ref=older, reason="LEASE_LOST")])
    forged = stale.advances.add(ref=older, cancel_requested=True, cancel_reason="stale").steps.add()
    forged.ordinal, forged.name, forged.completion = 1, "go", 1
    forged.kind, forged.state = STEP_KIND_WAIT, STEP_STATE_COMPLETED
    forged.result.CopyFrom(stage.client.converter.to_payload("forged"))
    await stage.link.tell(stale)
    await asyncio.sleep(0.5)
    stage.same("reports after it", 0, len(stage.reports(grant.task.ref)) - sent)
    await run.signal("go", "true")
    stage.same("the signal's payload", "true", await stage.result(run))


@case("workflows", "runs")
async def repeated_advance(stage: Stage) -> None:
    """An Advance that comes twice, with a step that the worker has, changes nothing more."""
    told: list[ConnectResponse] = []

    def keep(_: Link, message: ConnectResponse) -> None:
        if message.advances:
            told.append(ConnectResponse(advances=[*message.advances, *message.advances]))
            del message.advances[:]
            message.MergeFrom(told[-1])

    run = await stage.run("activities", {"count": 3, "type": "echo", "input": 1})
    stage.tap.on_response.append(keep)
    stage.same("the results", [1, 1, 1], await stage.result(run))
    other = await stage.run("ordered")
    await stage.waits(other)
    await other.signal("go")
    stage.same("ordered returns", "ordered", await stage.result(other))
    stage.true(told, "the runs are told news", "none was", "runs")


@case("workflows", "losses")
async def lost_advance(stage: Stage) -> None:
    """News of a run that were lost with their stream are told again after the resume, and the run goes on."""
    lost: list[ConnectResponse] = []

    def lose(link: Link, message: ConnectResponse) -> bool:
        if lost or not message.advances:
            return True
        lost.append(message)
        link.cut()
        return False

    run = await stage.run("ordered")
    await stage.resident(run)
    stage.tap.on_response.append(lose)
    await run.signal("go")
    stage.same("ordered returns", "ordered", await stage.result(run))


@case("workflows", "losses")
async def lost_progress(stage: Stage) -> None:
    """A Progress that was lost with its stream is sent again, as it was, once the session is resumed."""
    lost: list[Report] = []

    def lose(link: Link, message: ConnectRequest) -> bool:
        found = [report for report in message.reports if report.progress.steps]
        if lost or not found:
            return True
        lost.extend(found)
        link.cut()
        return False

    stage.tap.on_request.append(lose)
    run = await stage.run("steps", {"count": 10})
    stage.same("the sum", 45, await stage.result(run))
    times = [report.correlation for report in stage.reports(lost[0].ref)].count(lost[0].correlation)
    stage.same("times that the progress was sent", 2, times)


@case("workflows", "losses")
async def lost_answer_to_a_progress(stage: Stage) -> None:
    """A Progress whose answer was lost is sent again after the resume, found a duplicate, and the run goes on."""
    lost: list[ReportResult] = []

    def lose(link: Link, message: ConnectResponse) -> bool:
        found = [result for result in message.results if result.ordinals]
        if lost or not found:
            return True
        lost.extend(found)
        link.cut()
        return False

    stage.tap.on_response.append(lose)
    run = await stage.run("steps", {"count": 10})
    stage.same("the sum", 45, await stage.result(run))
    again = [each for told in stage.told() for each in told.results if each.correlation == lost[0].correlation]
    stage.same("its answer", [ReportResult.STATUS_DUPLICATE], [each.status for each in again])
    stage.same("its ordinals", [*lost[0].ordinals], [*again[0].ordinals])


@case("workflows", "refusals")
async def progress_refused_for_now(stage: Stage) -> None:
    """A Progress that is refused for now is sent again, and the run goes on."""
    refused = refuse_once(stage, not_now, lambda report: report.progress.steps)
    run = await stage.run("steps", {"count": 5})
    stage.same("the sum", 10, await stage.result(run))
    was_patient(stage, refused[0])


@case("workflows", "refusals")
async def progress_refused_for_ever(stage: Stage) -> None:
    """A Progress that can never be recorded is followed by one that fails the run with what it was refused for."""
    refuse_once(stage, never, lambda report: report.progress.steps)
    run = await stage.run("steps", {"count": 5})
    failure = await stage.failure(run, "FAILED")
    stage.same("what it failed with", NEVER, NEVER if NEVER in failure.message else failure.message)
