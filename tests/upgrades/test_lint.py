"""Migrations to come are online: a linter looks for what rewrites a big table, or stops who uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell_server.store import migrations
from stepwell_server.store.migrations import Migration, shipped

FOLDER = Path(migrations.__file__).parent / "migrations"
# What the linter has to say of taste, of deployments that go back, and of what our own migrator sees to.
EXCLUDED = (
    *("prefer-text-field", "prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-identity"),
    *("prefer-robust-stmts", "require-timeout-settings", "require-table-schema", "ban-drop-column"),
    "ban-drop-not-null",
)
# Findings in files of before that stay, each with its reason. What comes later has none.
ACCEPTED = {
    ("0007_carried_signals", "ban-drop-constraint"): "the file's own, whose place NOT NULL takes",
}
# Writes of rows outside a DO with a COMMIT: they hold their locks to the end of the file.
_WRITES = re.compile(r"^(UPDATE|DELETE|INSERT|MERGE|WITH)\b", re.IGNORECASE)
WRITES_ACCEPTED = {
    "0001_core": "the first namespace, of an empty database",
    "0028_schedule_runs": "a row a schedule, and a deployment has some hundreds",
}


def squawk() -> str:
    """The linter."""
    found = shutil.which("squawk", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("squawk is missing: run `make setup`")
        pytest.skip("squawk is missing; `make setup` installs it")
    return found


def findings(*paths: Path, in_transaction: bool) -> set[tuple[str, str]]:
    """What it finds: the file's name and the rule's."""
    command = [squawk(), "--reporter", "json", "--pg-version", "15"]
    command += [f"--exclude={','.join(EXCLUDED)}"]
    if in_transaction:
        command.append("--assume-in-transaction")
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return {(Path(found["file"]).stem, found["rule_name"]) for found in json.loads(done.stdout)}


def path_of(migration: Migration) -> Path:
    return FOLDER / f"{migration.title}.sql"


@pytest.mark.parametrize("in_transaction", [True, False], ids=["whole", "one by one"])
def test_no_migration_stops_who_works(in_transaction: bool) -> None:
    """But for what is accepted, with its reason."""
    paths = [path_of(migration) for migration in shipped() if migration.in_transaction is in_transaction]
    found = findings(*paths, in_transaction=in_transaction)
    accepted = {key for key in ACCEPTED if any(path.stem == key[0] for path in paths)}
    assert found == accepted


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("ALTER TABLE runs ALTER COLUMN priority TYPE bigint;", "changing-column-type"),
        ("ALTER TABLE runs ADD COLUMN x uuid NOT NULL DEFAULT gen_random_uuid();", "adding-field-with-default"),
        ("ALTER TABLE runs ADD COLUMN x int NOT NULL;", "adding-required-field"),
        ("ALTER TABLE runs ALTER COLUMN deadline SET NOT NULL;", "adding-not-nullable-field"),
        ("CREATE INDEX x ON runs (deadline);", "require-concurrent-index-creation"),
        ("DROP INDEX runs_wake_idx;", "require-concurrent-index-deletion"),
        ("ALTER TABLE runs ADD CONSTRAINT x CHECK (priority < 10);", "constraint-missing-not-valid"),
        ("ALTER TABLE runs ADD CONSTRAINT x UNIQUE (run_id);", "disallowed-unique-constraint"),
        ("ALTER TABLE runs RENAME COLUMN priority TO rank;", "renaming-column"),
        ("DROP TABLE runs;", "ban-drop-table"),
    ],
)
def test_the_linter_knows_what_stops_others(sql: str, rule: str, tmp_path: Path) -> None:
    file = tmp_path / "0099_bad.sql"
    file.write_text(sql)
    assert ("0099_bad", rule) in findings(file, in_transaction=True)


def test_rows_are_written_in_slices() -> None:
    """A statement that writes all rows of a table holds them until it is done: a DO with a COMMIT does not."""
    found = {migration.title for migration in shipped() if any(map(_writes, _bare(migration)))}
    assert found == WRITES_ACCEPTED.keys()


def test_an_index_of_many_rows_can_be_repeated() -> None:
    """What runs one by one does nothing where it is done already."""
    for migration in shipped():
        if migration.in_transaction:
            continue
        for statement in _bare(migration):
            if re.match(r"(CREATE|DROP)\b", statement, re.IGNORECASE):
                assert re.search(r"\bIF (NOT )?EXISTS\b", statement, re.IGNORECASE), (migration.title, statement)
            elif re.search(r"\b(ADD|DROP) COLUMN\b", statement, re.IGNORECASE):
                assert re.search(r"COLUMN IF (NOT )?EXISTS\b", statement, re.IGNORECASE), (migration.title, statement)


def _bare(migration: Migration) -> list[str]:
    """Its statements without comments."""
    return [re.sub(r"--[^\n]*", "", statement).strip() for statement in migration.statements()]


def _writes(statement: str) -> bool:
    return bool(_WRITES.match(statement))
