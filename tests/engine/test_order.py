"""The order of calls: a correct program never trips the check, a changed one always does."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.order import chain
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import ScopeClaim
from stepwell_server.engine.runs import ResumeRun
from stepwell_server.model.runs import EMPTY_HASH, ORDER_CHANGED


def test_a_mismatch_in_one_branch_counts_nothing_in_the_others() -> None:
    """A progress that is refused for one branch leaves the record of every branch as it was."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("a", local(), "1"), code.call("b", local(), "2"))
    good = code.call("c", local(), "1")
    wrong = code.call("d", local(), "2")
    message = code.message(good, wrong)
    tripped = ProgressRun(
        message.ref,
        message.session_id,
        message.token,
        [message.scopes[0], ScopeClaim("2", 1, chain(EMPTY_HASH, 1, "renamed"), closed=False)],
        message.steps,
        [],
        waiting=False,
        end=None,
        resident=True,
    )
    with pytest.raises(errors.StepOrderChanged):
        world.do(tripped)
    assert world.run(key).pause_reason == ORDER_CHANGED
    world.do(ResumeRun(world.ref(key), accept_order=True))
    assert world.store.scopes[key, "1"].order_count == 1
    assert world.run(key).last_step == 2


def test_a_progress_half_recorded_is_no_repeat() -> None:
    """All or nothing: a message of which one branch is recorded and another is not would lose the other's steps."""
    world = World()
    key = world.start()
    code = Code(world, key)
    first = code.call("a", local(), "1")
    code.send(first)
    message = code.message(code.call("b", local(), "2"))
    mixed = ProgressRun(
        message.ref,
        message.session_id,
        message.token,
        [ScopeClaim("1", 0, EMPTY_HASH, closed=False), *message.scopes],
        [first, *message.steps],
        [],
        waiting=False,
        end=None,
        resident=True,
    )
    with pytest.raises(errors.StepOrderChanged):
        world.do(mixed)
    assert (key, "2") not in world.store.scopes
