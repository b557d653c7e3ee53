"""Activities that processes can import."""

from __future__ import annotations

import os
import time

from stepwell import activity


@activity
def where() -> int:
    activity.heartbeat({"pid": os.getpid()})
    return os.getpid()


@activity(heartbeat_timeout=0.2)
def until_cancelled() -> None:
    while True:
        activity.heartbeat()
        activity.raise_if_cancelled()
        time.sleep(0.005)
