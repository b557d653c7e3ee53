"""The mirror in the descriptors: each option names a method that its store has."""

from __future__ import annotations

from importlib.resources import files

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tests.parity.seed_methods import METHODS

from stepwell.v1 import mirrors_pb2

DESCRIBED = FileDescriptorSet.FromString(files("stepwell.v1").joinpath("descriptors.binpb").read_bytes())
ANSWERED = [
    (mirror.trait, mirror.method, f"{service.name}.{method.name}")
    for file in DESCRIBED.file
    if file.package == "stepwell.v1"
    for service in file.service
    for method in service.method
    for mirror in method.options.Extensions[mirrors_pb2.mirrors]
]


@pytest.mark.parametrize("trait", METHODS, ids=mirrors_pb2.Trait.Name)
def test_every_mirror_names_a_method_of_its_store(trait: int) -> None:
    answered = {method for other, method, _ in ANSWERED if other == trait}
    assert answered - set(METHODS[trait]) == set()
    assert answered
