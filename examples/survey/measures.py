"""What the survey measures: plain functions, the same in the workers and in the check beside them."""

from __future__ import annotations

import ast
import importlib.util
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

# Python 3.11 counts the parser's depth per process, not per thread: two at once may fail with SystemError.
_PARSING = threading.Lock()
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class Measures:
    """One file. `parsed` is False if Python cannot read it; then all else but `lines` is 0."""

    parsed: bool
    lines: int
    functions: int = 0
    classes: int = 0
    documented: int = 0
    longest: int = 0


def names() -> list[str]:
    """Every top-level package and module of this Python's standard library."""
    return sorted(sys.stdlib_module_names)


def sources(name: str) -> list[str]:
    """The source files of a package or module, sorted; none if it is built in or not there."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    origin = Path(spec.origin)
    if origin.name != "__init__.py":
        return [str(origin)]
    return sorted(str(path) for path in origin.parent.rglob("*.py"))


def measure(path: str) -> Measures:
    """Parses a file and measures it."""
    content = Path(path).read_bytes()
    lines = content.count(b"\n")
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Measures(parsed=False, lines=lines)
    functions = classes = documented = longest = 0
    for node in ast.walk(tree):
        if not isinstance(node, _DEFINITIONS):
            continue
        documented += ast.get_docstring(node) is not None
        if isinstance(node, ast.ClassDef):
            classes += 1
        else:
            functions += 1
            longest = max(longest, (node.end_lineno or node.lineno) - node.lineno + 1)
    return Measures(True, lines, functions, classes, documented, longest)


def total(measured: list[Measures]) -> dict[str, int]:
    """The sum over files."""
    return {
        "files": len(measured),
        "unparsed": sum(not each.parsed for each in measured),
        "lines": sum(each.lines for each in measured),
        "functions": sum(each.functions for each in measured),
        "classes": sum(each.classes for each in measured),
        "documented": sum(each.documented for each in measured),
        "longest": max((each.longest for each in measured), default=0),
    }
