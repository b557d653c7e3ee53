"""Activities that processes can import."""

from __future__ import annotations

import os
import signal
import time

from stepwell import activity


@activity
def where() -> int:
    activity.heartbeat({"pid": os.getpid()})
    time.sleep(0.1)
    return os.getpid()


@activity(name="dies once")
def dies_once() -> int:
    if activity.info().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return activity.info().attempt


@activity(heartbeat_timeout=0.2)
def until_cancelled() -> None:
    while True:
        activity.heartbeat()
        activity.raise_if_cancelled()
        time.sleep(0.005)
