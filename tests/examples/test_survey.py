"""The demo is a test: what it claims at its end must hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "survey" / "demo.py"


@pytest.mark.timeout(240)
def test_survey_adds_up_though_a_worker_and_the_service_are_killed() -> None:
    """Runs survive kill -9 of a worker and of the service; the demo's own checks decide."""
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9 worker" in done.stdout
    assert "kill -9 the service" in done.stdout
    assert "everything adds up" in done.stdout
