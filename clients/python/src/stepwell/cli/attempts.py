"""Attempts of a run, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.v1.runs_pb2 import Run
    from stepwell.v1.types_pb2 import Failure


def attempt_of(run: Run) -> str:
    """Gives the attempt of a run with a retry policy, and how many it may have."""
    if not run.HasField("retry"):
        return ""
    most = run.retry.maximum_attempts
    return f"{run.attempt} of {most}" if most else str(run.attempt)


def words_of(failure: Failure) -> str:
    """Gives a failure as text, without its stack trace."""
    return f"{failure.type}: {failure.message}"
