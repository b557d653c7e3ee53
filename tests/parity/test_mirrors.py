"""The mirror in the descriptors: each option names a method that its store has, and each method is accounted for."""

from __future__ import annotations

import importlib

import pytest
from tests.parity.cases import CASES, MIRRORED
from tests.parity.seed_methods import CLIENTS_OWN, METHODS, UNANSWERED

from stepwell.v1 import mirrors_pb2

MODULES = ("test_assay", "test_assay_work", "test_stem", "test_squid_mesh")
ANSWERED_TWICE = {
    (mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE, "set_schedule_paused"): "its flag is two verbs of ours",
}


def answered(trait: int) -> set[str]:
    return {method for other, method in MIRRORED if other == trait}


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_mirror_names_a_method_of_its_store(trait: int) -> None:
    assert answered(trait) - set(METHODS[trait]) == set()
    assert answered(trait)


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_method_is_answered_or_accounted_for(trait: int) -> None:
    """One that is answered and still listed turns this red, and so does one that nobody speaks of."""
    later, own = set(UNANSWERED.get(trait, {})), set(CLIENTS_OWN.get(trait, {}))
    assert answered(trait) & (later | own) == set()
    assert set(METHODS[trait]) - answered(trait) == later | own
    assert later & own == set()


def test_a_method_has_one_answer() -> None:
    twice = {method for method, rpcs in MIRRORED.items() if len(rpcs) > 1}
    assert twice == set(ANSWERED_TWICE)


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_answered_method_has_a_case(trait: int) -> None:
    """Which calls it, and says what came back."""
    for name in MODULES:
        importlib.import_module(f"tests.parity.{name}")
    assert {method for other, method in CASES if other == trait} == answered(trait)
