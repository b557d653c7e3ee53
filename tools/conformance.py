"""Builds each client's conformance worker, runs the kit against it, and writes the results into docs/conformance.md.

Arguments choose languages; the others' columns say that they were not run. With `--check` nothing is run: the page must
tell of the kit's cases as the kit does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stepwell import conformance
from stepwell.conformance.cases import Kind

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/conformance.md"
CLIENTS = ROOT / "clients"
BUILT = ROOT / ".cache/conformance"
BEGIN, END = "<!-- Written by `make conformance`. -->", "<!-- To here. -->"
PASSED, FAILED, NOT_RUN, NOT_MEANT = "passed", "**failed**", "not run", "-"
_TABLE = re.compile(re.escape(BEGIN) + r"\n(.*)" + re.escape(END), re.DOTALL)


class Language(NamedTuple):
    """A worker: its source in the client, the tools it takes, its builds, its command, and what it is held to."""

    title: str
    source: str
    tools: tuple[str, ...]
    builds: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    only: Kind | None = None


LANGUAGES = {
    "python": Language(
        "Python", "conformance/worker.py", (), (), (sys.executable, str(CLIENTS / "python/conformance/worker.py"))
    ),
    "go": Language(
        "Go",
        "conformance/main.go",
        ("go",),
        (("go", "build", "-o", str(BUILT / "go"), "./conformance"),),
        (str(BUILT / "go"),),
    ),
    "typescript": Language(
        "TypeScript",
        "conformance/worker.ts",
        ("node", "npm"),
        (("npm", "ci", "--no-audit", "--no-fund"), ("npm", "run", "build")),
        ("node", str(CLIENTS / "typescript/dist/conformance/worker.js")),
    ),
    "java": Language(
        "Java",
        "src/conformance/java",
        ("java", "mvn"),
        (("mvn", "--quiet", "--batch-mode", "process-test-classes"),),
        ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-jar", str(CLIENTS / "java/target/conformance.jar")),
        "activities",
    ),
    "rust": Language(
        "Rust",
        "src/bin/conformance.rs",
        ("cargo",),
        (("cargo", "build", "--locked", "--bin", "conformance", "--target-dir", str(ROOT / ".cache/rust")),),
        (str(ROOT / ".cache/rust/debug/conformance"),),
        "activities",
    ),
}


@contextmanager
def alone(folder: str) -> Iterator[None]:
    """While somebody builds in a client's folder nobody else does, nor runs what is there."""
    locks = ROOT / ".cache/locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / folder).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lacking(name: str) -> str:
    """What there should be to run a language's worker, and is not; empty if all is."""
    language = LANGUAGES[name]
    if not (CLIENTS / name / language.source).exists():
        return f"clients/{name}/{language.source}"
    return next((tool for tool in language.tools if shutil.which(tool) is None), "")


def build(name: str) -> None:
    """Builds a language's worker. Raises `RuntimeError` with what the build said."""
    BUILT.mkdir(parents=True, exist_ok=True)
    # As the tests of the Rust client build it: what they have built is taken as it is.
    linted = {"RUSTC_WORKSPACE_WRAPPER": "clippy-driver"} if shutil.which("clippy-driver") else {}
    for command in LANGUAGES[name].builds:
        done = subprocess.run(
            command, cwd=CLIENTS / name, env=linted | os.environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-4_000:]}")


def run(name: str) -> dict[str, bool]:
    """Runs the kit against a language's worker, and tells which cases it passed."""

    def told(result: conformance.Result) -> None:
        word = "passed" if result.broken is None else f"FAILED: {result.broken}"
        print(f"{name:<10}  {result.case.name:<40}  {word}", flush=True)

    language = LANGUAGES[name]
    with alone(name):
        build(name)
        cases = conformance.chosen(language.only)
        results = asyncio.run(conformance.run(language.command, cases, told))
    return {result.case.name: result.has_passed for result in results}


def table(results: Mapping[str, Mapping[str, bool]]) -> str:
    """The table of cases and languages."""
    titles = [language.title for language in LANGUAGES.values()]
    lines = [
        f"| case | what it does | {' | '.join(titles)} |",
        f"|---|---|{'---|' * len(titles)}",
    ]
    for case in conformance.CASES.values():
        told = [_cell(case, name, results.get(name)) for name in LANGUAGES]
        lines.append(f"| [{case.name}]({_link(case)}) | {case.about} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _cell(case: conformance.Case, name: str, results: Mapping[str, bool] | None) -> str:
    if LANGUAGES[name].only not in {None, case.kind}:
        return NOT_MEANT
    if results is None or case.name not in results:
        return NOT_RUN
    return PASSED if results[case.name] else FAILED


def _link(case: conformance.Case) -> str:
    return case.link.removeprefix("docs/")


def untrue(page: str) -> list[str]:
    """Where the page tells of other cases than the kit has. What was run is only known to who ran it."""
    found = _TABLE.search(page)
    if found is None:
        return [f"{BEGIN} and {END} are not in it"]
    expected = table({}).splitlines()
    shown = found[1].splitlines()
    if len(shown) != len(expected):
        return [f"it tells of {len(shown) - 2} cases, and the kit has {len(expected) - 2}"]
    return [have for want, have in zip(expected, shown, strict=True) if not _agree(want, have)]


def _agree(want: str, have: str) -> bool:
    """The case's own cells are alike, and in those of languages stands something that may."""
    wanted, shown = want.split(" | "), have.split(" | ")
    if wanted[:2] != shown[:2] or len(wanted) != len(shown):
        return False
    pairs = zip(wanted[2:], shown[2:], strict=True)
    return all(
        one == other or (NOT_RUN in one and other.removesuffix(" |") in {PASSED, FAILED}) for one, other in pairs
    )


def main(arguments: Sequence[str]) -> int:
    """Checks, or runs and writes."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    page = PAGE.read_text()
    if "--check" in arguments:
        wrong = untrue(page)
        for line in wrong:
            print(f"{PAGE.relative_to(ROOT)}: {line}\n  run `make conformance`", file=sys.stderr)
        return bool(wrong)
    results = {}
    for name in arguments or LANGUAGES:
        if missing := lacking(name):
            print(f"{name}: {missing} is not here", file=sys.stderr)
            continue
        results[name] = run(name)
    PAGE.write_text(_TABLE.sub(lambda _: f"{BEGIN}\n{table(results)}{END}", page))
    return not all(all(each.values()) for each in results.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
