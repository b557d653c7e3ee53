"""One run's trace as a tree, read from the spans that the service printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.tree import Tree


def _spans(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text that holds other things too: a killed service may have printed half of one."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except ValueError:
            end = place + 1
        else:
            if isinstance(value, dict) and "context" in value:
                yield value
        place = text.find("{", end)


def tree_of(file: Path, run_id: str, most: int = 14) -> Tree | None:
    """The spans of the trace in which the run was claimed."""
    spans = list(_spans(file.read_text(errors="replace")))
    traces = {span["context"]["trace_id"] for span in spans if span["attributes"].get("stepwell.run") == run_id}
    mine = [span for span in spans if span["context"]["trace_id"] in traces]
    if not mine:
        return None
    mine.sort(key=lambda span: span["start_time"])
    tree = Tree(f"[bold]trace of run {run_id}[/] ({len(mine)} spans)")
    branches: dict[str, Tree] = {}
    for span in mine[:most]:
        about = span["attributes"]
        words = [f"[cyan]{span['name']}[/]"]
        words += [str(about[key]) for key in ("stepwell.step", "stepwell.worker", "stepwell.outcome") if about.get(key)]
        above = branches.get(str(span.get("parent_id")), tree)
        branches[span["context"]["span_id"]] = above.add(" ".join(words))
    if len(mine) > most:
        tree.add(f"… and {len(mine) - most} more")
    return tree
