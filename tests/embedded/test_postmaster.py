"""Whether a server lives, on its way out and after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell_server.embedded.postmaster import Postmaster


@pytest.mark.skipif(sys.platform != "linux", reason="told by /proc")
def test_a_child_lives_until_its_end_was_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder goes before its pid does, and Postgres does not start while somebody has that."""
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, cwd=tmp_path)
    server = Postmaster(child.pid, tmp_path)
    assert server.is_alive()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with monkeypatch.context() as patched:
        patched.setattr(os, "waitpid", lambda *_: (0, 0))
        assert server.is_alive()
    assert not server.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    child.communicate()
