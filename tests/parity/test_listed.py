"""What becomes of the cases that the stores' own suites list: every test that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.parity.listed import BEYOND, STORES

TESTS = Path(__file__).parent.parent
FATES = [
    (f"{store}, {name}: {case}", fate)
    for store, lists in STORES.items()
    for name, cases in lists.items()
    for case, fate in cases.items()
] + [(letter, fate) for letter, (_, fate) in BEYOND.items()]


@pytest.mark.parametrize(("case", "fate"), FATES, ids=[case for case, _ in FATES])
def test_its_proof_exists(case: str, fate: str) -> None:
    if fate.startswith("not ours:"):
        assert fate.partition(":")[2].strip(), f"{case}: say why"
        return
    assert fate, case
    for test in fate.split():
        path, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (TESTS / path).read_text(), re.MULTILINE), test


def test_the_list_of_what_goes_beyond_is_whole() -> None:
    assert "".join(BEYOND) == "abcdefghijklmnopqrstuv"
