"""Random programs, random orders of what happens, workers lost anywhere: the code and the record always agree."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sdk.duet import Duet, settle
from tests.sdk.programs import PROGRAMS, Node, changed, go_on, live, numbered, perform, replay

from stepwell_server import errors
from stepwell_server.model.runs import ORDER_CHANGED

SETTINGS = settings(
    max_examples=int(os.environ.get("EXAMPLES", "60")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def told(progress: Any) -> tuple[str, str]:
    """An end, without the lines of a traceback."""
    which = progress.WhichOneof("end")
    end = getattr(progress, which)
    return which, str(end.failure.message if which == "fail" else end)


@SETTINGS
@given(program=PROGRAMS, data=st.data())
def test_no_life_of_a_program_trips_the_check(program: Node, data: st.DataObject) -> None:
    """It comes to its end, and its whole record leads to the same end again, the same winners too."""

    async def scenario() -> None:
        duet = await live(program, data.draw)
        assert duet.run is not None
        first = duet.run.end
        again = await replay(duet, program)
        assert again is not None
        assert not again.steps
        assert first is not None
        assert told(again) == told(type(again)(**first))
        assert again.calls == (len(duet.records()) if again.HasField("complete") else 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["rename", "remove", "insert", "other kind"])
@SETTINGS
@given(program=PROGRAMS, data=st.data())
def test_a_real_change_always_trips_the_check(how: str, program: Node, data: st.DataObject) -> None:
    """Of a call that is on record, in a winner, a loser or its clean-up, while the run has yet to end."""

    async def scenario() -> None:
        before = numbered(program, itertools.count())
        duet = Duet(lambda ctx: perform(ctx, before))

        def is_about_to_end() -> bool:
            return duet.host.reported is not None and bool(duet.host.reported.WhichOneof("end"))

        try:
            await duet.grant()
            await go_on(duet, data.draw, is_over=is_about_to_end)
            recorded = sorted({record.name for record in duet.records() if not record.name.startswith("__")})
            if duet.end or not recorded:
                return
            other = changed(before, data.draw(st.sampled_from(recorded)), how)
            duet.program = lambda ctx: perform(ctx, other)
            await duet.lose()
            try:
                await go_on(duet, data.draw, accidents=0)
            except errors.StepOrderChanged:
                assert duet.world.run(duet.key).pause_reason == ORDER_CHANGED
            else:
                # Code that fails may do so before it has made all its calls: see docs/protocol.md.
                assert (how, duet.end) == ("remove", "fail")
        finally:
            # Code that waits is ended while there is a loop to end it in.
            duet.drop()
            await settle()

    asyncio.run(scenario())
