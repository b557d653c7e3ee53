"""The numbered SQL files that make a schema, and what each says of itself in comment lines.

-- stepwell: min-server 7       servers older than 7 must not run on what this file makes
-- stepwell: no-transaction     its statements run one by one, each by itself: see store/migration_turns.py
-- stepwell: was 3f0c...        the checksum of another text of this file that came to the same
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_MIN_SERVER = re.compile(r"^-- stepwell: min-server (\d+)\s*$", re.MULTILINE)
_NO_TRANSACTION = re.compile(r"^-- stepwell: no-transaction\s*$", re.MULTILINE)
_WAS = re.compile(r"^-- stepwell: was ([0-9a-f]{64})\s*$", re.MULTILINE)
# What may hold a semicolon that ends nothing; and the one that ends a statement.
_PARTS = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$|(?P<end>;)", re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*")


class MigrationError(RuntimeError):
    """The database cannot be brought to this server's schema; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    sql: str

    @property
    def title(self) -> str:
        """As its file is called."""
        return f"{self.number:04}_{self.name}"

    @property
    def checksum(self) -> str:
        """Changes with the text, but not with how a checkout ends its lines."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()

    @property
    def checksums(self) -> frozenset[str]:
        """Its own, and those of the texts that it had before."""
        return frozenset({self.checksum, *_WAS.findall(self.sql)})

    @property
    def min_server(self) -> int:
        """The oldest server that may run on what this makes; 0 if any may."""
        match = _MIN_SERVER.search(self.sql)
        return int(match.group(1)) if match else 0

    @property
    def in_transaction(self) -> bool:
        """Whether it is applied as a whole or not at all."""
        return not _NO_TRANSACTION.search(self.sql)

    def statements(self) -> list[str]:
        """Splits a file that runs outside a transaction: together, its statements would be in one."""
        ends = [found.start() for found in _PARTS.finditer(self.sql) if found["end"]]
        starts = [0, *(end + 1 for end in ends)]
        parts = [self.sql[start:end] for start, end in zip(starts, [*ends, len(self.sql)], strict=True)]
        return [part.strip() for part in parts if _COMMENT.sub("", part).strip()]


def shipped() -> tuple[Migration, ...]:
    """Reads the files of this package, numbered from 1 without a gap."""
    found = []
    folder = resources.files("stepwell_server.store") / "migrations"
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _FILE_NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match.group(1)), match.group(2), entry.read_text(encoding="utf-8")))
        elif entry.name.endswith(".sql"):
            raise MigrationError(f"{entry.name} is not named like 0001_name.sql")
    found.sort(key=lambda migration: migration.number)
    refuse_gaps(found)
    return tuple(found)


def refuse_gaps(migrations: Sequence[Migration]) -> None:
    """Numbers follow on each other."""
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            raise MigrationError(f"migration {expected} is missing: next comes {migration.number}_{migration.name}")


def refuse_changed(plan: Sequence[Migration], done: dict[int, str]) -> None:
    """What a database has applied is not edited afterwards."""
    for migration in plan:
        if done.get(migration.number, migration.checksum) not in migration.checksums:
            raise MigrationError(
                f"migration {migration.title} was changed after this database applied it: "
                f"restore the file, and put the change into a new one"
            )
