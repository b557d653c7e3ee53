"""`buf breaking` can fail: what breaks those who speak a released protocol is reported, and what does not is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
BUF = ROOT / ".cache/tools/bin/buf"
STUBS = files("stepwell.v1")


@pytest.fixture(scope="module")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs tools/buf.py with the real buf."""
    if not BUF.exists():
        if os.environ.get("CI"):
            pytest.fail("buf is missing: run `make tools`")
        pytest.skip("buf is missing; `make tools` installs it")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools/buf.py"), *map(str, arguments)]
        return subprocess.run(command, env={**os.environ, "BUF": str(BUF)}, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def released(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The protocol as it is, released."""
    image = tmp_path_factory.mktemp("released") / "released.binpb"
    answer = run("baseline", image)
    assert answer.returncode == 0, answer.stderr
    return image


def changed(change: Callable[[FileDescriptorProto], None], folder: Path) -> Path:
    """The protocol as it is, with a change in runs.proto."""
    described = FileDescriptorSet.FromString(STUBS.joinpath("descriptors.binpb").read_bytes())
    (file,) = (file for file in described.file if file.name == "stepwell/v1/runs.proto")
    change(file)
    path = folder / "changed.binpb"
    path.write_bytes(described.SerializeToString())
    return path


def message(file: FileDescriptorProto, name: str) -> Any:
    return next(each for each in file.message_type if each.name == name)


def renumber(file: FileDescriptorProto) -> None:
    message(file, "StartRunRequest").field[0].number = 4_000


def retype(file: FileDescriptorProto) -> None:
    field = next(field for field in message(file, "StartRunRequest").field if field.name == "type")
    field.type = FieldDescriptorProto.TYPE_INT64


def rename(file: FileDescriptorProto) -> None:
    message(file, "StartRunResponse").field[0].name = "another"
    message(file, "StartRunResponse").field[0].json_name = "another"


def forget_a_field(file: FileDescriptorProto) -> None:
    del message(file, "StartRunResponse").field[0]


def forget_a_call(file: FileDescriptorProto) -> None:
    (service,) = file.service
    del service.method[next(n for n, method in enumerate(service.method) if method.name == "PauseRun")]


def answer_otherwise(file: FileDescriptorProto) -> None:
    (service,) = file.service
    method = next(method for method in service.method if method.name == "PauseRun")
    method.output_type = ".stepwell.v1.StartRunResponse"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (renumber, 'Previously present field "1"'),
        (retype, 'changed type from "string" to "int64"'),
        (rename, 'changed name from "run_id" to "another"'),
        (forget_a_field, 'Previously present field "1"'),
        (forget_a_call, 'Previously present RPC "PauseRun"'),
        (answer_otherwise, "response type"),
    ],
)
def test_what_breaks_is_reported(run: Any, released: Path, tmp_path: Path, change: Any, complaint: str) -> None:
    answer = run("breaking", changed(change, tmp_path), released)
    assert answer.returncode != 0
    assert complaint in answer.stdout


def test_a_further_field_breaks_nobody(run: Any, released: Path, tmp_path: Path) -> None:
    def add(file: FileDescriptorProto) -> None:
        message(file, "StartRunRequest").field.add(
            name="further",
            number=4_000,
            type=FieldDescriptorProto.TYPE_STRING,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
            json_name="further",
        )

    answer = run("breaking", changed(add, tmp_path), released)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "everybody who speaks the released protocol still can" in answer.stdout


def test_before_the_first_release_there_is_nothing_to_break(run: Any, tmp_path: Path) -> None:
    answer = run("breaking", changed(renumber, tmp_path), tmp_path / "none.binpb")
    assert answer.returncode == 0
    assert "nothing has been released yet" in answer.stdout
