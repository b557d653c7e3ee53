"""All servicers of the mirrored stores, and of what is made alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.api.activity_store import ActivityStoreCalls
from stepwell_server.api.dispatch_store import DispatchStoreCalls
from stepwell_server.api.event_store import EventStoreCalls
from stepwell_server.api.leader_store import LeaderStoreCalls
from stepwell_server.api.run_control_store import RunControlStoreCalls
from stepwell_server.api.run_store import RunStoreCalls
from stepwell_server.api.signal_store import SignalStoreCalls
from stepwell_server.api.snapshot_store import SnapshotStoreCalls
from stepwell_server.api.statistics import StatisticsCalls
from stepwell_server.api.step_store import StepStoreCalls
from stepwell_server.api.timer_store import TimerStoreCalls
from stepwell_server.api.topic_store import TopicStoreCalls
from stepwell_server.api.worker_store import WorkerStoreCalls

if TYPE_CHECKING:
    from stepwell_server.api.stores import StoreCalls
    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces


def store_servicers(
    committers: Committers, database: Database, namespaces: Namespaces, clock: Clock, settings: Settings
) -> list[StoreCalls]:
    """One of each."""
    kinds: tuple[type[StoreCalls], ...] = (
        RunStoreCalls,
        StepStoreCalls,
        ActivityStoreCalls,
        EventStoreCalls,
        SignalStoreCalls,
        TopicStoreCalls,
        TimerStoreCalls,
        WorkerStoreCalls,
        SnapshotStoreCalls,
        StatisticsCalls,
        LeaderStoreCalls,
        DispatchStoreCalls,
        RunControlStoreCalls,
    )
    return [kind(committers, database, namespaces, clock, settings) for kind in kinds]
