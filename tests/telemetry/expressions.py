"""What expressions for Prometheus are about, read as Prometheus reads them."""

from __future__ import annotations

import re
from typing import NamedTuple

import promql_parser as promql

# What the one who scrapes says of each sample, in Kubernetes and elsewhere.
SCRAPED = frozenset({"namespace", "job", "instance"})
_INTERVAL = re.compile(r"\$__rate_interval\b")


class Chosen(NamedTuple):
    """A metric that an expression chooses by labels, each with the value that it must have, or the pattern."""

    name: str
    matchers: tuple[tuple[str, str], ...]


class Used(NamedTuple):
    """What an expression is about: the metrics that it chooses, and the labels by which it puts them together."""

    chosen: tuple[Chosen, ...]
    grouped: frozenset[str]


def read(text: str) -> Used:
    """Raises ValueError if it is no expression."""
    chosen: list[Chosen] = []
    grouped: set[str] = set()

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql.VectorSelector):
            matchers = tuple((each.name, each.value) for each in node.matchers.matchers)
            chosen.append(Chosen(node.name or "", matchers))
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None:
            grouped.update(node.modifier.matching.labels if node.modifier.matching else ())
            grouped.update(node.modifier.group_labels or ())

    promql.walk(promql.parse(_INTERVAL.sub("5m", text)), visit)
    return Used(tuple(dict.fromkeys(chosen)), frozenset(grouped))
