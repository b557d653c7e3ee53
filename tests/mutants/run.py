"""Takes each guard out, one at a time, and sees that the tests named with it notice.

A mutant is a patch `NNN_name.patch` whose first line names its tests: `tests: tests/engine/test_x.py::test_y`. It is
applied to a copy of the tree. Arguments choose mutants by a part of their names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPIED = ("service", "clients", "tests", "pyproject.toml", "proto")
SECONDS = 300
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "node_modules", ".cache")


def tests_of(patch: Path) -> list[str]:
    """The tests that must notice."""
    first = patch.read_text().splitlines()[0]
    if not first.startswith("tests: "):
        raise SystemExit(f"{patch.name}: the first line must name its tests")
    return first.removeprefix("tests: ").split()


def copy_tree(where: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, where / name, ignore=_IGNORED, symlinks=True)
        elif source.exists():
            shutil.copy2(source, where / name)
    # `git apply` in a folder inside a repository skips what is not of that repository.
    subprocess.run(["git", "init", "--quiet"], cwd=where, check=True)


def apply(patch: Path, where: Path, *options: str) -> bool:
    """Whether the patch fits the tree as it is."""
    return subprocess.run(["git", "apply", *options, str(patch)], cwd=where, check=False).returncode == 0


def run_tests(where: Path, tests: list[str]) -> int:
    """Pytest's exit code; 1 is a test that failed."""
    paths = os.pathsep.join(str(where / part) for part in ("service", "clients/python/src"))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--timeout", "25", *tests]
    try:
        done = subprocess.run(command, cwd=where, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


def survives(patch: Path, where: Path) -> str:
    """What is wrong: nobody noticed the mutant, or it could not be tried. Empty if all is well."""
    if not apply(patch, where):
        return "does not apply: the code has moved on, and so must the patch"
    try:
        code = run_tests(where, tests_of(patch))
    finally:
        apply(patch, where, "--reverse")
    return {0: "SURVIVED: its tests are green", 1: ""}.get(code, f"its tests did not run (pytest exit {code})")


def main(chosen: list[str]) -> int:
    patches = [
        patch for patch in sorted(HERE.glob("*.patch")) if not chosen or any(part in patch.name for part in chosen)
    ]
    if not patches:
        print("no such mutant")
        return 2
    with tempfile.TemporaryDirectory(prefix="stepwell-mutants-") as folder:
        where = Path(folder)
        # When root runs the tests, Postgres runs as an account that must be able to enter.
        where.chmod(0o755)
        copy_tree(where)
        named = sorted({test for patch in patches for test in tests_of(patch)})
        if run_tests(where, named):
            print("the tests are red without any mutant")
            return 1
        failures = 0
        for number, patch in enumerate(patches, 1):
            begun = time.monotonic()
            problem = survives(patch, where)
            failures += bool(problem)
            seconds = time.monotonic() - begun
            print(f"[{number}/{len(patches)}] {patch.stem}: {problem or 'noticed'} ({seconds:.1f} s)", flush=True)
    print(f"{len(patches) - failures} of {len(patches)} noticed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
