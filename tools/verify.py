"""Proves that the generated files in the tree are those that proto/ yields: generates, and compares."""

import sys
import tempfile
from pathlib import Path

from generate import PACKAGE, ROOT, STUBS, generate


def difference(expected: Path, actual: Path) -> str | None:
    """Says how two files differ, or nothing if they do not."""
    if not actual.exists():
        return "missing"
    return None if expected.read_bytes() == actual.read_bytes() else "differs"


def main() -> None:
    """Prints every difference and fails if there is one."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        expected = generate(Path(folder))
        for path in expected:
            if text := difference(Path(folder) / path, STUBS / path):
                found[path] = text
    for path in sorted((STUBS / PACKAGE).rglob("*")):
        relative = path.relative_to(STUBS)
        if path.is_file() and "__pycache__" not in path.parts and relative not in expected:
            found[relative] = "no proto yields it"
    for relative, text in found.items():
        print(f"{(STUBS / relative).relative_to(ROOT)}: {text}")
    if found:
        sys.exit("generated files are not current: run `make generate`")
    print(f"{len(expected)} generated files are current")


if __name__ == "__main__":
    main()
