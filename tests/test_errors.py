"""An error's declaration is all there is to it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stepwell_server import errors, refusals

DECLARED = sorted(refusals.REASONS.values(), key=lambda kind: kind.reason)


def example(kind: type[refusals.Refusal]) -> refusals.Refusal:
    return kind(**{name: 1 if name == "retry_seconds" else name for name in kind.fields})


def test_a_declaration_says_everything() -> None:
    """Class, docstring and fields give code, reason, message and metadata."""
    error = errors.RunNotFound(namespace="main", run_id="r1")
    assert error.code is refusals.Code.NOT_FOUND
    assert error.reason == "RUN_NOT_FOUND"
    assert str(error) == "Run r1 does not exist in namespace main."
    assert error.metadata == {"namespace": "main", "run_id": "r1"}


@pytest.mark.parametrize("kind", DECLARED, ids=lambda kind: kind.reason)
def test_every_declaration_renders(kind: type[refusals.Refusal]) -> None:
    """Each message is a sentence made of its own fields, and each reason is spelt for the wire."""
    error = example(kind)
    assert str(error).endswith(".")
    assert "{" not in str(error)
    assert kind.reason.replace("_", "").isalpha()
    assert set(error.metadata) <= set(kind.fields) - {"retry_seconds", "violations"}


def test_a_reason_is_declared_once() -> None:
    """A second class of the same name is refused where it is declared."""
    with pytest.raises(TypeError, match="RUN_NOT_FOUND is declared twice"):
        type("RunNotFound", (refusals.NotFound,), {"__doc__": "Again."})
    assert refusals.REASONS["RUN_NOT_FOUND"] is errors.RunNotFound


def test_a_message_speaks_only_of_its_fields() -> None:
    """A template that needs what the error does not have is refused where it is declared."""
    with pytest.raises(TypeError, match="speaks of moon"):
        type("NeverDeclared", (refusals.NotFound,), {"__doc__": "No {moon} tonight."})
    assert "NEVER_DECLARED" not in refusals.REASONS


def test_fields_are_asked_for() -> None:
    """An error without its facts cannot be made."""
    with pytest.raises(TypeError, match="run_id"):
        errors.RunNotFound(namespace="main")  # type: ignore[call-arg]


def test_retries_travel_apart() -> None:
    """When to come back is a detail of its own, with a default by kind."""
    assert errors.QueueFull(queue="runs").retry_seconds == 0.5
    assert errors.QueueFull(queue="runs", retry_seconds=2).retry_seconds == 2
    assert errors.LimitExceeded(limit="payload_bytes", value=3, maximum=2).retry_seconds is None
    assert errors.DatabaseUnavailable().metadata == {}


def test_fields_at_fault_are_named() -> None:
    """A request that is wrong says where."""
    assert errors.InvalidField(field="name", problem="is empty").field_violations() == (("name", "is empty"),)
    several = (("name", "is empty"), ("queue", "is too long"))
    assert errors.InvalidFields(violations=several).field_violations() == several
    assert errors.PageTokenInvalid(problem="is torn").field_violations() == (("page_token", "is torn"),)


def test_stripped_docstrings_are_noticed() -> None:
    """Python without docstrings would answer without messages, so it does not start."""
    answer = subprocess.run(
        [sys.executable, "-OO", "-c", "import stepwell_server.errors"], capture_output=True, text=True, check=False
    )
    assert answer.returncode
    assert "run without -OO" in answer.stderr
