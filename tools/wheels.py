"""Builds both wheels with the pinned backend and tries them in an environment that has nothing else."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
# Every module of the packages named, and what must lie beside them.
TRIAL = """
import importlib, pkgutil, sys
from importlib import metadata, resources

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
for name in ("py.typed", "v1/descriptors.binpb"):
    assert resources.files("stepwell").joinpath(name).is_file(), name
names = ("stepwell", "stepwell-server", "grpcio", "protobuf")
print("import:", *(f"{d.name} {d.version}" for d in metadata.distributions() if d.name in names))
"""


def python(executable: Path | str, *arguments: str) -> None:
    """Runs a Python, away from the tree, and fails with it."""
    subprocess.run([str(executable), *arguments], check=True, cwd=tempfile.gettempdir())


def attempt(lock: str, wheels: list[Path], packages: list[str]) -> None:
    """Installs wheels beside what a lock file names, in an environment of their own, and imports packages."""
    with tempfile.TemporaryDirectory() as folder:
        python(sys.executable, "-m", "venv", folder)
        clean = Path(folder, "bin", "python")
        python(clean, *PIP, "install", "--require-hashes", f"--requirement={ROOT / lock}")
        python(clean, *PIP, "install", "--no-deps", *(str(wheel) for wheel in wheels))
        python(clean, *PIP, "check")
        python(clean, "-W", "error", "-c", TRIAL, *packages)


def main() -> None:
    """Builds; tries both at the newest versions of what they need, and the stubs at the oldest."""
    shutil.rmtree(DIST, ignore_errors=True)
    build = (*PIP, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={DIST}")
    python(sys.executable, *build, str(ROOT / "clients" / "python"), str(ROOT))
    client, server = sorted(DIST.glob("*.whl"))
    attempt("requirements.lock", [client, server], ["stepwell", "stepwell_server"])
    attempt("requirements-lowest.lock", [client], ["stepwell.v1"])
    print(*(wheel.relative_to(ROOT) for wheel in (client, server)), sep="\n")


if __name__ == "__main__":
    main()
