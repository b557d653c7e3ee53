"""What the leader does, and what any replica does beside it, put together."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell_server.loops.backlog import Backlog
from stepwell_server.loops.concurrency import Slots
from stepwell_server.loops.connection import SharedConnection
from stepwell_server.loops.deadlines import Deadlines
from stepwell_server.loops.expiry import Expiry
from stepwell_server.loops.inbox import DeadLetters, Inbox
from stepwell_server.loops.inbox_limits import InboxLimits
from stepwell_server.loops.mail import MailDelivery
from stepwell_server.loops.partitions import Partitions
from stepwell_server.loops.pruner import Pruner
from stepwell_server.loops.retention import JobRetention, RunRetention
from stepwell_server.loops.schedules import Schedules
from stepwell_server.loops.timers import Alarms, JobTimers, Timers
from stepwell_server.loops.topics import TopicNews, Topics

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.loops.leader import Leader
    from stepwell_server.loops.loop import Loop
    from stepwell_server.settings import Settings
    from stepwell_server.store.crews import Crews
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces


class Duties:
    """Those of a replica.

    `every` are the leader's; `alarms`, `slots` and `topic_news` hear what this replica does. What has no connection of
    its own uses `shared`.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        committers: Committers,
        namespaces: Namespaces,
        crews: Crews,
        clock: Clock,
        real_clock: Clock,
        settings: Settings,
        leader: Leader,
        publish: Callable[[str, object], None],
        heard_since: Callable[[], datetime | None],
    ) -> None:
        leads = leader.is_leading
        shared, of_inbox = SharedConnection(database), SharedConnection(database, "inbox")
        self.shared = shared
        of_topics, of_slots = SharedConnection(database, "topics"), SharedConnection(database, "slots")
        self._connections = (shared, of_inbox, of_topics, of_slots)
        self.timers = Timers(shared, committers, clock, settings.timer_poll_seconds, leads)
        self.deadlines = Deadlines(shared, committers, clock, settings.timeout_poll_seconds, leads)
        self.schedules = Schedules(shared, committers, clock, settings.schedule_poll_seconds, leads)
        self.job_timers = JobTimers(shared, committers, clock, settings.timer_poll_seconds, leads)
        self.timers.heard_since = self.job_timers.heard_since = self._heard_since
        topics = Topics(of_topics, committers, clock, settings.topic_poll_seconds, leads)
        self.topic_news = TopicNews(topics, leads, publish)
        self.alarms = Alarms(self.timers, self.deadlines, self.job_timers, leads, publish)
        self.slots = Slots(of_slots, committers, clock, settings.slot_poll_seconds, leads)
        silence = settings.session_seconds, leader.led_seconds
        self.expiry = Expiry(shared, committers, real_clock, settings.expiry_poll_seconds, *silence, leads)
        self._clock, self._own_beats_since = clock, heard_since
        seldom = settings.retention_poll_seconds
        self.every: list[Loop] = [
            self.timers,
            self.deadlines,
            self.schedules,
            self.job_timers,
            self.expiry,
            topics,
            MailDelivery(shared, committers, clock, settings.mail_poll_seconds, leads),
            Inbox(of_inbox, committers, clock, settings.inbox_poll_seconds, leads),
            InboxLimits(shared, settings.limits, seldom, leads),
            DeadLetters(shared, clock, seldom, settings.dead_letter_seconds, leads),
            Partitions(shared, seldom, leads),
            Pruner(shared, clock, seldom, leads),
            JobRetention(shared, clock, seldom, leads),
            RunRetention(database, namespaces, shared, clock, seldom, settings.archive_folder, leads),
        ]
        if settings.metrics_port is not None:
            self.every.append(Backlog(shared, crews, clock, settings.backlog_poll_seconds, leads))

    def _heard_since(self) -> datetime | None:
        """Beats of other replicas fail unseen, but for what holds up this leader, too."""
        calm = self.expiry.calm_seconds()
        since = self._own_beats_since()
        if math.isinf(calm):
            return since
        held_up = self._clock.now() - timedelta(seconds=calm)
        return held_up if since is None else max(since, held_up)

    def wake(self) -> None:
        """The clock was moved: what is due now was not before."""
        for loop in (self.timers, self.deadlines, self.schedules, self.job_timers):
            loop.wake()

    async def close(self) -> None:
        """Closes its connections, once nothing of it turns any more."""
        for connection in self._connections:
            await connection.close()
