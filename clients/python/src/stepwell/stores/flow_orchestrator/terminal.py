"""How a run ended that has nothing left to do: FlowOrchestrator's one rule, for its engine to ask."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from stepwell.stores.flow_orchestrator.records import RunStatus, StepStatus


def terminal_status(statuses: Mapping[str, StepStatus], run_after: Mapping[str, Collection[str]]) -> RunStatus:
    """The status of a run whose steps ended so. `run_after`: by key, the keys that a step comes after.

    Nothing succeeded: Failed if anything failed or nothing was done, else Skipped. A failure that no step right after
    it made good: Failed. All leaves skipped, which are the steps that no other comes after: Skipped. Else Succeeded.
    """
    succeeded = {key for key, status in statuses.items() if status == StepStatus.Succeeded}
    failed = {key for key, status in statuses.items() if status == StepStatus.Failed}
    skipped = {key for key, status in statuses.items() if status == StepStatus.Skipped}
    if not succeeded:
        return RunStatus.Skipped if skipped and not failed else RunStatus.Failed
    made_good = {before for key in succeeded for before in run_after.get(key, ())}
    if failed - made_good:
        return RunStatus.Failed
    leaves = statuses.keys() - {before for keys in run_after.values() for before in keys}
    return RunStatus.Skipped if leaves <= skipped else RunStatus.Succeeded
