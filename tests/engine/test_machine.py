"""Whatever comes in whatever order: see `machine`. A few examples each time, many in the long tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.engine.machine import Service

SHORT = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_random_lives_keep_every_invariant() -> None:
    """Gapless events, counted steps, single ends, rising order of ends, and nobody waits for news that never comes."""
    run_state_machine_as_test(Service, settings=SHORT)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_random_lives_keep_every_invariant() -> None:
    """The same, for longer."""
    run_state_machine_as_test(Service, settings=settings(SHORT, max_examples=2_000, stateful_step_count=80))
