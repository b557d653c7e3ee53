"""The order hash, by the examples that other languages are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell._scopes import EMPTY_HASH, chained

FILE = Path(__file__).resolve().parents[2] / "proto/order_hash.json"
VECTORS = json.loads(FILE.read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["about"])
def test_vector(vector: dict[str, Any]) -> None:
    """Each call chains to the hash that the file says."""
    order = EMPTY_HASH
    hashes = [order.hex()]
    for call in vector["calls"]:
        order = chained(order, call["kind"], call["name"], bytes.fromhex(call.get("fingerprint", "")))
        hashes.append(order.hex())
    assert hashes == vector["hashes"]


def test_orders_differ() -> None:
    """No two of the examples end alike."""
    ends = [vector["hashes"][-1] for vector in VECTORS]
    assert len(set(ends)) == len(ends)
