"""Activities that processes can import."""

from __future__ import annotations

import os
import signal
import time

from stepwell import activity


@activity
def where() -> int:
    return os.getpid()


@activity(name="dies once")
def dies_once() -> int:
    if activity.info().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return activity.info().attempt


@activity(heartbeat_timeout=0.2)
def until_cancelled() -> None:
    while True:
        activity.heartbeat({"pid": os.getpid()})
        activity.raise_if_cancelled()
        # A plain function can only look: nothing wakes it.
        time.sleep(0.005)
