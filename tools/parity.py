"""Writes docs/parity.md from the descriptors and the cases in tests/parity; `--check` only compares.

Which RPC answers a method comes from the protocol's `mirrors` options, which case proves it from the marks of the
cases, and what becomes of the other cases that the stores list from `tests/parity/listed`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.parity.cases import CASES, MIRRORED, Case, import_cases  # noqa: E402 - found by the line above
from tests.parity.classes import place  # noqa: E402
from tests.parity.listed import BEYOND, STORES  # noqa: E402
from tests.parity.seed_methods import CLIENTS_OWN, CONSTRUCTORS, METHODS  # noqa: E402

from stepwell.v1 import mirrors_pb2  # noqa: E402

TARGET = ROOT / "docs/parity.md"
NAMES = {
    mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE: "assay: `WorkflowStore`",
    mirrors_pb2.TRAIT_STEM_WORKFLOW_STORE: "stem: `PostgresWorkflowStore`",
    mirrors_pb2.TRAIT_FLOW_RUN_STORE: "FlowOrchestrator: `PostgreSqlFlowRunStore`",
    mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE: "Vyuh: `WorkflowStorage` and its repositories",
    mirrors_pb2.TRAIT_SQUID_MESH_STEP_RUN_STORE: "SquidMesh: `StepRunStore`",
}
INTRODUCTION = """\
# Parity

Written by `make generate` from the protocol and from `tests/parity`; change it there.

Stepwell mirrors five workflow stores. Each of their {total} methods is answered by an RPC, which says so in an option
of the protocol, and by a class in `stepwell.stores`, a few lines over that RPC. {answered} are answered, {own} are a
client's own.

A method is proven by its cases: tests that call it and assert what came back. Whether they do is tried out.
`tests/parity/test_hollow.py` runs each case again for each of its methods. Once the method does its work and its
answers are emptied, once it does nothing. A case that still passes fails the build. Methods that give nothing back are
tried the second way only.
"""
OTHERS = """\
## Their own suites

What becomes of every case that the stores' own suites list. Paths are below `tests/`.
"""
BEYOND_TEXT = """\
## Beyond

What none of the five passes, and the tests of ours that do.
"""


def method_rows(trait: int) -> list[str]:
    """What answers and proves each method of a store."""
    own = CLIENTS_OWN.get(trait, {})
    rows = ["| method | RPC | class | cases |", "|---|---|---|---|"]
    for method in METHODS[trait]:
        if method in own:
            rows.append(f"| `{method}` | none: {own[method]} | | |")
        else:
            rpcs = ", ".join(f"`{rpc}`" for rpc in sorted(MIRRORED[trait, method]))
            module, name, _ = place(trait, method)
            shown = f"`{module.removeprefix('stepwell.stores.')}.{name}`"
            cases = ", ".join(sorted({f"`{_file(case)}::{case.__name__}`" for case in CASES[trait, method]}))
            rows.append(f"| `{method}` | {rpcs} | {shown} | {cases} |")
    return rows


def _file(case: Case) -> str:
    return f"{case.__module__.rpartition('.')[2]}.py"


def disposed(fate: str) -> str:
    """What becomes of a case, for people."""
    if fate.startswith("not ours:"):
        return fate
    return ", ".join(f"`{test}`" for test in fate.split())


def render() -> str:
    """The whole document."""
    import_cases()
    total = sum(map(len, METHODS.values()))
    own = sum(map(len, CLIENTS_OWN.values()))
    parts = [INTRODUCTION.format(total=total, answered=total - own, own=own)]
    for trait, name in NAMES.items():
        parts.append(f"## {name}\n\nMethods: {len(METHODS[trait])}.\n")
        parts.append("\n".join(method_rows(trait)) + "\n")
        if made := CONSTRUCTORS.get(trait):
            listed = "; ".join(f"`{each}`: {reason}" for each, reason in made.items())
            parts.append(f"Constructors are no methods, and do not count: {listed}.\n")
    parts.append(OTHERS)
    for store, lists in STORES.items():
        for name, cases in lists.items():
            rows = [f"| {case} | {disposed(fate)} |" for case, fate in cases.items()]
            parts.append(f"### {store}: {name}\n")
            parts.append("\n".join(["| case | here |", "|---|---|", *rows]) + "\n")
    parts.append(BEYOND_TEXT)
    rows = [f"| {letter} | {what} | {disposed(fate)} |" for letter, (what, fate) in BEYOND.items()]
    parts.append("\n".join(["| | what | tests |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Writes the document, or compares."""
    text = render()
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text() != text:
            sys.exit(f"{TARGET.relative_to(ROOT)} is not current: run `make generate`")
        print(f"{TARGET.relative_to(ROOT)} is current")
        return
    TARGET.write_text(text)
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
