"""Makes an environment for each end of the range of versions that the client takes, below .cache/ends.

They hold what the client needs and nothing else; tests/sdk/test_ends.py runs it there. One that can't be made, as
without network, is a named skip, or a failure where CI is set.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache/ends"
ENDS = ("lowest", "highest")
INSTALL = ("install", "--quiet", "--disable-pip-version-check", "--retries=1", "--timeout=20", "--only-binary=:all:")


def stamp_of(lock: Path) -> str:
    """Changes with what is to be installed, and with the Python that installs it."""
    return hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()


def make(end: str) -> bool:
    """Whether the environment is there; made anew when its lock file has changed."""
    lock, folder = ROOT / f"requirements-{end}.lock", FOLDER / end
    ready, stamp = folder / ".ready", stamp_of(lock)
    if ready.exists() and ready.read_text() == stamp:
        return True
    print(f"setting up {folder.relative_to(ROOT)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin/python"))
    done = subprocess.run([*pip, *INSTALL, "--require-hashes", f"--requirement={lock}"], check=False)
    if done.returncode == 0:
        ready.write_text(stamp)
    return done.returncode == 0


def main() -> None:
    """Makes both."""
    missing = [end for end in ENDS if not make(end)]
    if missing and os.environ.get("CI"):
        sys.exit(f"{' and '.join(missing)}: what the lock files name can't be installed")
    for end in missing:
        print(f"SKIPPED {end} versions: what requirements-{end}.lock names can't be installed")


if __name__ == "__main__":
    main()
