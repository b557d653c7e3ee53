"""The cases that the mirrored stores' own suites list, each with what becomes of it here.

A case is proven by tests of ours (their paths below `tests/`, with blanks between), or `not ours:` because.
`docs/parity.md` shows them; `test_listed` sees that each test exists.
"""

from __future__ import annotations

from tests.parity.listed.assay import ASSAY
from tests.parity.listed.beyond import BEYOND
from tests.parity.listed.flow_orchestrator import FLOW_ORCHESTRATOR
from tests.parity.listed.squid_mesh import SQUID_MESH
from tests.parity.listed.stem import STEM
from tests.parity.listed.vyuh import VYUH

__all__ = ["BEYOND", "STORES"]

STORES: dict[str, dict[str, dict[str, str]]] = {
    "assay": ASSAY,
    "stem": STEM,
    "FlowOrchestrator": FLOW_ORCHESTRATOR,
    "Vyuh": VYUH,
    "SquidMesh": SQUID_MESH,
}
