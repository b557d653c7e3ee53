"""When a run reports: what happens while one of its reports is under way waits for the answer, and no longer."""

from __future__ import annotations

from tests.sdk.duet import Duet, settle

from stepwell import Context


async def test_a_request_to_cancel_during_a_report_is_heard_with_its_answer() -> None:
    async def program(ctx: Context) -> None:
        await ctx.sleep(60)

    duet = Duet(program)
    await duet.grant()
    assert duet.host.reported is not None
    assert duet.host.reported.waiting
    await duet.cancel()
    await duet.answer()
    await duet.go_on()
    assert duet.end == "cancelled"


async def test_a_value_published_during_a_report_goes_out_after_its_answer() -> None:
    contexts: list[Context] = []

    async def program(ctx: Context) -> None:
        contexts.append(ctx)
        await ctx.sleep(60)

    duet = Duet(program)
    await duet.grant()
    contexts[0].publish("state", "late")
    await settle()
    await duet.answer()
    assert duet.host.reported is not None
    assert duet.host.reported.published["state"].json == '"late"'


async def test_a_recorded_wait_is_told_once() -> None:
    """With nothing to tell after the answer, nothing is told."""

    async def program(ctx: Context) -> None:
        await ctx.sleep(60)

    duet = Duet(program)
    await duet.grant()
    await duet.answer()
    assert duet.host.reported is None
    assert duet.run is not None
    assert duet.run.out.told_waiting
