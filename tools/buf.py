"""Runs buf's checks on the protocol; a missing buf is a named skip, or a failure where CI is set.

They read the descriptor set that `make generate` wrote and not the folder, so that imports of protos
that come with a Python package (google/rpc) need no copy in this tree.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUF = ROOT / os.environ["BUF"]
CURRENT = ROOT / "clients/python/src/stepwell/v1/descriptors.binpb"
RELEASED = ROOT / "proto/released.binpb"
CONFIG = ("--config", str(ROOT / "proto/buf.yaml"))


def buf(*arguments: str) -> None:
    """Runs buf and fails with it."""
    code = subprocess.run([str(BUF), *arguments], check=False, cwd=ROOT).returncode
    if code != 0:
        sys.exit(code)


def lint() -> None:
    """Holds the protos against the rules in proto/buf.yaml, and against buf's format."""
    buf("format", "--diff", "--exit-code", "proto")
    buf("lint", str(CURRENT), *CONFIG)
    print("buf lint: no complaint")


def breaking(current: str = str(CURRENT), released: str = str(RELEASED)) -> None:
    """Compares with the last released protocol, once there is one; with others if they are named."""
    if not Path(released).exists():
        print("buf breaking: nothing has been released yet")
        return
    buf("breaking", current, "--against", released, *CONFIG)
    print("buf breaking: everybody who speaks the released protocol still can")


def baseline(released: str = str(RELEASED)) -> None:
    """Makes the present protocol the released one."""
    buf("build", str(CURRENT), "--exclude-source-info", "--output", released)
    print(f"buf build: {released} is what `buf breaking` compares with from now on")


def main() -> None:
    """Runs what is named, with the paths that follow."""
    name, *paths = sys.argv[1:]
    run = {"lint": lint, "breaking": breaking, "baseline": baseline}[name]
    if BUF.exists():
        run(*paths)
    elif os.environ.get("CI") or name == "baseline":
        sys.exit("buf is missing: run `make tools`")
    else:
        print(f"SKIPPED buf {name}: buf is missing; `make tools` installs it")


if __name__ == "__main__":
    main()
