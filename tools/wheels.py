"""Builds both wheels with the pinned backend and tries them in an environment that has nothing else."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
TRIAL = """
import importlib, importlib.metadata, importlib.resources, pkgutil
import stepwell, stepwell.v1, stepwell_server

for package in (stepwell, stepwell_server):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
for name in ("py.typed", "v1/descriptors.binpb"):
    assert importlib.resources.files("stepwell").joinpath(name).is_file(), name
versions = {importlib.metadata.version(name) for name in ("stepwell", "stepwell-server")}
assert len(versions) == 1, versions
print("both distributions import, version", *versions)
"""


def python(executable: Path | str, *arguments: str) -> None:
    """Runs a Python, away from the tree, and fails with it."""
    subprocess.run([str(executable), *arguments], check=True, cwd=tempfile.gettempdir())


def main() -> None:
    """Builds, installs, imports."""
    shutil.rmtree(DIST, ignore_errors=True)
    build = (*PIP, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={DIST}")
    python(sys.executable, *build, str(ROOT / "clients" / "python"), str(ROOT))
    wheels = sorted(str(path) for path in DIST.glob("*.whl"))
    with tempfile.TemporaryDirectory() as folder:
        python(sys.executable, "-m", "venv", folder)
        clean = Path(folder, "bin", "python")
        python(clean, *PIP, "install", "--require-hashes", f"--requirement={ROOT / 'requirements.lock'}")
        python(clean, *PIP, "install", "--no-deps", *wheels)
        python(clean, "-m", "pip", "check")
        python(clean, "-c", TRIAL)
    print(*(Path(wheel).relative_to(ROOT) for wheel in wheels), sep="\n")


if __name__ == "__main__":
    main()
