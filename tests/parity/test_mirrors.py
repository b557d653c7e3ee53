"""The mirror in the descriptors: each option names a method that its store has, and each method is accounted for."""

from __future__ import annotations

import pytest
from tests.parity.cases import CASES, MIRRORED, import_cases
from tests.parity.classes import found
from tests.parity.seed_methods import CLIENTS_OWN, CONSTRUCTORS, METHODS

from stepwell.v1 import mirrors_pb2

COUNTS = {
    mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE: 54,
    mirrors_pb2.TRAIT_STEM_WORKFLOW_STORE: 24,
    mirrors_pb2.TRAIT_FLOW_RUN_STORE: 29,
    mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE: 59,
    mirrors_pb2.TRAIT_SQUID_MESH_STEP_RUN_STORE: 8,
}
ANSWERED_TWICE = {
    (mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE, "set_schedule_paused"): "its flag is two verbs of ours",
}


def answered(trait: int) -> set[str]:
    return {method for other, method in MIRRORED if other == trait}


def test_there_are_174_methods() -> None:
    """Each once, constructors apart."""
    assert {trait: len(set(methods)) for trait, methods in METHODS.items()} == COUNTS
    assert {trait: len(methods) for trait, methods in METHODS.items()} == COUNTS
    assert sum(COUNTS.values()) == 174
    assert all(not set(names) & set(METHODS[trait]) for trait, names in CONSTRUCTORS.items())


def test_four_methods_are_the_clients_own() -> None:
    named = {(trait, method): reason for trait, methods in CLIENTS_OWN.items() for method, reason in methods.items()}
    assert all(named.values())
    assert len(named) == 4


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_mirror_names_a_method_of_its_store(trait: int) -> None:
    assert answered(trait)
    assert answered(trait) - set(METHODS[trait]) == set()


def test_no_mirror_is_of_another_store() -> None:
    assert {trait for trait, _ in MIRRORED} <= set(METHODS)


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_method_is_answered_or_the_clients_own(trait: int) -> None:
    """And none is both."""
    own = set(CLIENTS_OWN.get(trait, {}))
    assert answered(trait) & own == set()
    assert set(METHODS[trait]) - answered(trait) == own


def test_a_method_has_one_answer() -> None:
    twice = {method for method, rpcs in MIRRORED.items() if len(rpcs) > 1}
    assert twice == set(ANSWERED_TWICE)


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_answered_method_has_a_case(trait: int) -> None:
    """Which calls it, and says what came back."""
    import_cases()
    assert {method for other, method in CASES if other == trait} == answered(trait)


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_answered_method_is_in_its_class(trait: int) -> None:
    """Under its own name; what is a client's own, too."""
    names = answered(trait) | set(CLIENTS_OWN.get(trait, {}))
    assert [name for name in METHODS[trait] if name in names and found(trait, name) is None] == []
