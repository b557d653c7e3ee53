"""Resolves the lock files: for every Python and platform, with hashes, and without naming a registry."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).with_name("uv")
SERVER = ("pyproject.toml", "--all-extras", "--no-emit-package", "stepwell")
IMAGE = ("pyproject.toml", "--extra=archive", "--extra=otlp", "--extra=uvloop", "--no-emit-package", "stepwell")
STYLE = (
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
)


def lock(output: str, *arguments: str) -> None:
    """Resolves one file; versions that it has already stay, unless an upgrade was asked for."""
    subprocess.run(
        [str(UV), "pip", "compile", *arguments, *STYLE, *sys.argv[1:], f"--output-file={output}"],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    print(output)


def main() -> None:
    """Resolves what runs the service, develops, builds and generates it, and both ends of what the client takes."""
    lock("requirements.lock", *SERVER)
    # A server's Postgres is elsewhere: no image carries one.
    lock("requirements-image.lock", *IMAGE, "--constraints=requirements.lock")
    lock("requirements-dev.lock", *SERVER, "--group=dev", "--constraints=requirements.lock")
    lock("requirements-build.lock", "--group=build", "--constraints=requirements-dev.lock")
    lock("requirements-generate.lock", "--group=generate")
    lock("requirements-lowest.lock", "clients/python/pyproject.toml", "--resolution=lowest")
    lock("requirements-highest.lock", "clients/python/pyproject.toml", "--constraints=requirements.lock")


if __name__ == "__main__":
    main()
