"""Every mutant fits the tree as it is, so that whoever moves a guard moves its mutant; `make mutants` tries them."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from tests.mutants import run

ROOT = Path(__file__).resolve().parents[2]
PATCHES = run.patches()


@cache
def names_in(path: Path) -> frozenset[str]:
    """The tests of a file by their names, those of a class as `Class::test`."""
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    own = {node.name for node in tree.body if isinstance(node, functions)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    inside = {f"{each.name}::{node.name}" for each in classes for node in each.body if isinstance(node, functions)}
    return frozenset(own | inside | {each.name for each in classes})


def is_a_test(named: str) -> bool:
    """Whether what a patch names, a file or a test in it, exists."""
    path, _, test = named.partition("::")
    return (ROOT / path).is_file() and (not test or test.partition("[")[0] in names_in(ROOT / path))


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_it_applies_and_its_tests_exist(patch: Path) -> None:
    assert run.apply(patch, ROOT, "--check"), "the guard has moved: mend the patch, and run it"
    assert [named for named in run.tests_of(patch) if not is_a_test(named)] == []


def test_numbers_are_unique() -> None:
    numbers = Counter(patch.name.partition("_")[0] for patch in PATCHES)
    assert [number for number, count in numbers.items() if count > 1 or not number.isdigit()] == []
