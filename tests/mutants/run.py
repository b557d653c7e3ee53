"""Takes each guard out, one at a time, and sees that the tests named with it notice.

A mutant is a patch `NNN_name.patch` whose first line names its tests: `tests: tests/engine/test_x.py::test_y`. It is
applied to a copy of the tree; several copies work side by side. Arguments choose mutants by a part of their names, or
by how their numbers begin.
"""

from __future__ import annotations

import argparse
import enum
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPIED = ("service", "clients", "tests", "pyproject.toml", "proto", "deploy", "tools")
# What `make tools` built is used from where it is.
BUILT = ".cache/tools"
# A test that hangs has noticed, too.
TEST_SECONDS = 60
MUTANT_SECONDS = 300
# All named tests in a row, before any mutant.
FIRST_SECONDS = 3600
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "node_modules", ".cache")
# How pytest-timeout begins its word.
_HUNG = "Timeout (>"
_BAD = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?:\[| |$)", re.MULTILINE)


class Verdict(enum.Enum):
    """What came of a mutant."""

    NOTICED = "noticed"
    HUNG = "noticed by the time limit"
    SURVIVED = "SURVIVED: its tests are green"
    UNFIT = "DOES NOT APPLY: the code has moved on, and so must the patch"
    RED = "NOT TRIED: its tests are red without it"
    BROKEN = "NOT TRIED: its tests did not run"

    @property
    def is_good(self) -> bool:
        """Whether some test noticed."""
        return self in {Verdict.NOTICED, Verdict.HUNG}


class Tried(NamedTuple):
    """A mutant, what came of it, and how long that took."""

    patch: Path
    verdict: Verdict
    seconds: float


def patches(chosen: Sequence[str] = ()) -> list[Path]:
    """All patches, or those with any of these in their names; what is all digits is how their numbers begin."""
    every = sorted(HERE.glob("*.patch"))
    return [patch for patch in every if not chosen or any(_is_meant(patch.name, part) for part in chosen)]


def _is_meant(name: str, part: str) -> bool:
    return name.startswith(part) if part.isdigit() else part in name


def tests_of(patch: Path) -> list[str]:
    """The tests that must notice."""
    first = patch.read_text().splitlines()[0]
    if not first.startswith("tests: "):
        raise SystemExit(f"{patch.name}: the first line must name its tests")
    return first.removeprefix("tests: ").split()


def apply(patch: Path, where: Path, *options: str) -> bool:
    """Whether the patch fits the tree as it is."""
    command = ["git", "apply", *options, str(patch)]
    return subprocess.run(command, cwd=where, check=False, stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """Copies of the tree."""
    with tempfile.TemporaryDirectory(prefix="stepwell-mutants-", ignore_cleanup_errors=True) as folder:
        # When root runs the tests, Postgres runs as an account that must be able to enter.
        Path(folder).chmod(0o755)
        trees = [Path(folder) / str(number) for number in range(count)]
        for tree in trees:
            tree.mkdir()
            for name in COPIED:
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, tree / name, ignore=_IGNORED, symlinks=True)
                elif source.exists():
                    shutil.copy2(source, tree / name)
            if (ROOT / BUILT).exists():
                (tree / BUILT).parent.mkdir()
                (tree / BUILT).symlink_to(ROOT / BUILT)
            # `git apply` in a folder inside a repository skips what is not of that repository.
            subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
        yield trees


def run_tests(where: Path, tests: Sequence[str], seconds: float, *options: str) -> tuple[int, str]:
    """Pytest's exit code, 1 being a test that failed, and what it said."""
    paths = os.pathsep.join(str(where / part) for part in ("service", "clients/python/src"))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--timeout", str(TEST_SECONDS), *options, *tests]
    with subprocess.Popen(
        command, cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pytest:
        try:
            said, _ = pytest.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return 1, f"{_stopped(pytest)}\n{_HUNG}"
    return pytest.returncode, said


def _stopped(pytest: subprocess.Popen[str]) -> str:
    """Lets pytest end its Postgres, if it still can."""
    pytest.send_signal(signal.SIGINT)
    try:
        return pytest.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        pytest.kill()
        return pytest.communicate()[0]


def red_tests(where: Path, tests: Sequence[str], workers: int) -> set[str]:
    """Those of the tests that fail without any mutant."""
    code, said = run_tests(where, tests, FIRST_SECONDS, "-n", str(workers))
    red = set(_BAD.findall(said))
    if code and not red:
        raise SystemExit(f"the tests do not run without any mutant (pytest exit {code}):\n{said}")
    return red


def verdict_on(patch: Path, where: Path, red: set[str]) -> Verdict:
    """Tries a mutant in a copy of the tree, which is as before afterwards. The patch is the copy's, too."""
    patch = where / patch.relative_to(ROOT)
    tests = tests_of(patch)
    if any(name == test or name.startswith(f"{test}::") for test in tests for name in red):
        return Verdict.RED
    if not apply(patch, where):
        return Verdict.UNFIT
    try:
        code, said = run_tests(where, tests, MUTANT_SECONDS, "-x")
    finally:
        if not apply(patch, where, "--reverse"):
            raise SystemExit(f"{patch.name}: can't be taken back")
    if code == 1:
        return Verdict.HUNG if _HUNG in said else Verdict.NOTICED
    return Verdict.SURVIVED if code == 0 else Verdict.BROKEN


def try_all(chosen: Sequence[Path], trees: Sequence[Path], red: set[str]) -> Iterator[Tried]:
    """Tries mutants, as many at a time as there are copies of the tree."""
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)

    def attempt(patch: Path) -> Tried:
        where, begun = free.get(), time.monotonic()
        try:
            return Tried(patch, verdict_on(patch, where, red), time.monotonic() - begun)
        finally:
            free.put(where)

    with ThreadPoolExecutor(len(trees)) as pool:
        try:
            for done in as_completed([pool.submit(attempt, patch) for patch in chosen]):
                yield done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def report(tried: Sequence[Tried], seconds: float) -> None:
    """Says what came of all, and again what was not noticed."""
    counts: Mapping[Verdict, int] = Counter(each.verdict for each in tried)
    print(f"\n{len(tried)} mutants in {seconds:.0f} s")
    for verdict in Verdict:
        if counts[verdict]:
            print(f"{counts[verdict]:4} {verdict.value}")
        if verdict != Verdict.NOTICED:
            for each in sorted(tried):
                if each.verdict == verdict:
                    print(f"       {each.patch.stem} ({each.seconds:.1f} s)")


def main(arguments: Sequence[str]) -> int:
    """Tries the chosen mutants, or all; 1 if one was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names, or how numbers begin; none means all")
    parser.add_argument("--workers", type=int, default=2, help="copies of the tree, each with its tests (default 2)")
    asked = parser.parse_args(arguments)
    chosen = patches(asked.names)
    if not chosen:
        print("no such mutant")
        return 2
    begun = time.monotonic()
    named = sorted({test for patch in chosen for test in tests_of(patch)})
    tried: list[Tried] = []
    with copies(max(1, min(asked.workers, len(chosen)))) as trees:
        red = red_tests(trees[0], named, len(trees))
        print(f"{len(named)} tests without any mutant: {len(red)} red ({time.monotonic() - begun:.0f} s)", flush=True)
        for each in try_all(chosen, trees, red):
            tried.append(each)
            place = f"[{len(tried)}/{len(chosen)}]"
            print(f"{place} {each.patch.stem}: {each.verdict.value} ({each.seconds:.1f} s)", flush=True)
    report(tried, time.monotonic() - begun)
    return 0 if all(each.verdict.is_good for each in tried) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
