"""Who has a driven step: its claim, as it stands in the step's details."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stepwell_server.model.steps import Step, StepDetails, pack_step_details, unpack_step_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change


def refuse_stale(change: Change, step: Step, claim_token: int) -> None:
    """Refuses a write to a leased step by who does not hold it, or does no longer: LEASE_LOST."""
    is_leased = step.details is not None and unpack_step_details(step.details).claim_expire_time is not None
    if (claim_token or is_leased) and claim_token != step.grants:
        raise change.lost(claim_token, step.grants)


def with_details(step: Step, **fields: Any) -> Step:  # noqa: ANN401 - fields of StepDetails
    """The step with other details."""
    before: StepDetails = unpack_step_details(step.details)
    return replace(step, details=pack_step_details(replace(before, **fields)))


def unclaimed(step: Step) -> Step:
    """The step as nobody has it."""
    return replace(with_details(step, claim_time=None, claim_expire_time=None), owner_id="")
