"""What a watch tells of a run besides its end: that it was started, paused, resumed, or opened again."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from stepwell_server.model.events import EventType

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_EVENT = 1
"""The number of the event that tells of a run's start."""


class RunNews(IntEnum):
    """What a watch tells of; the proto's RunNews."""

    ENDED = 1
    STARTED = 2
    PAUSED = 3
    RESUMED = 4
    REOPENED = 5


def news_of(kind: int, facts: Mapping[str, str]) -> RunNews:
    """What an event tells that stands among a batch's notices."""
    if kind == EventType.RUN_STARTED:
        return RunNews.STARTED
    if kind == EventType.RUN_PAUSED:
        return RunNews.PAUSED
    # Of a run that was open all the time it tells that its code may go on: it had been paused.
    return RunNews.REOPENED if "phase" in facts else RunNews.RESUMED
