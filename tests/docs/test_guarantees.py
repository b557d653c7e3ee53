"""The tests that the page about guarantees names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMED = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (TESTS.parent / "docs/guarantees.md").read_text())


def test_some_are_named() -> None:
    assert len(NAMED) >= 10


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_is_named_is_there(file: str, name: str) -> None:
    assert f"def {name}(" in (TESTS / file).read_text()
