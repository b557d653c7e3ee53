"""Each case once more for each of its methods, with answers that say nothing: one that does not notice proves nothing.

Once what is asked for is done and its answer is emptied: what came back must have been asserted. Once it is not even
done: then a case of a method that gives nothing back must have looked at what it did.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.parity.cases import CASES, Case, Engine, Hollow, import_cases
from tests.parity.classes import is_silent
from tests.parity.conftest import Engines

from stepwell.v1 import mirrors_pb2

import_cases()

SECONDS = 60
ECHOED = {
    (mirrors_pb2.TRAIT_STEM_WORKFLOW_STORE, "createRun"): "gives back the id that its request has",
}
"""Methods whose answer is not the service's, each with the reason: only what they did can be asserted."""
EACH = [
    (mirrors_pb2.Trait.ValueType(trait), method, case) for (trait, method), cases in CASES.items() for case in cases
]


def name(each: tuple[mirrors_pb2.Trait.ValueType, str, Case]) -> str:
    trait, method, case = each
    return f"{mirrors_pb2.Trait.Name(trait)}-{method}-{case.__name__}"


async def notices(case: Case, engine: Engine) -> bool:
    try:
        async with asyncio.timeout(SECONDS):
            await case(engine)
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - however it fails
        return True
    return False


@pytest.mark.parametrize("each", EACH, ids=name)
async def test_a_hollow_answer_is_noticed(engines: Engines, each: tuple[int, str, Case]) -> None:
    trait, method, case = each
    for done in (False,) if is_silent(trait, method) or (trait, method) in ECHOED else (False, True):
        assert await notices(case, await engines(Hollow(trait, method, done))), f"done={done}"
