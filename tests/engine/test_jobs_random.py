"""Random lives of jobs, several commands a batch: whatever comes in whatever order, the invariants hold."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.test_job_states import CAME, FAILED
from tests.engine.world import MAIN, World, new_job

from stepwell_server import refusals
from stepwell_server.engine.activities import CancelledActivity, CompleteActivity, FailActivity, Outcome
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.grants import GrantTask, ReturnTask
from stepwell_server.engine.jobs import CancelJob, RetryJob, StartedJob, StartJob
from stepwell_server.engine.starts import Conflict, Reuse
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.jobs import JOB_ORDINAL, ClosedJob, Job
from stepwell_server.model.payloads import NULL
from stepwell_server.model.steps import RetryPolicy, StepDetails, StepState, Timeouts, unpack_step_details

POLICIES = (
    StepDetails(retry=RetryPolicy(maximum_attempts=1)),
    StepDetails(retry=RetryPolicy(initial_seconds=2.0, maximum_attempts=3)),
    StepDetails(retry=RetryPolicy(initial_seconds=1.0), timeouts=Timeouts(start_to_close=5.0)),
    StepDetails(timeouts=Timeouts(schedule_to_start=4.0, schedule_to_close=12.0)),
    StepDetails(retry=RetryPolicy(maximum_attempts=2), timeouts=Timeouts(heartbeat=3.0)),
)
NUMBER = st.integers(0, 7)
COMMANDS = st.one_of(
    st.tuples(st.just("start"), NUMBER, NUMBER),
    st.tuples(st.sampled_from(("grant", "cancel", "retry", "fire")), NUMBER, st.just(0)),
    st.tuples(st.sampled_from(("complete", "fail", "stop", "release", "lose")), NUMBER, st.sampled_from((0, 0, 0, 1))),
)
MOMENTS = st.one_of(
    st.lists(COMMANDS, min_size=1, max_size=5),
    st.tuples(st.just("pass"), st.floats(0.5, 6.0)),
    st.just(("forget",)),
)


class Lives:
    """A world with jobs only, and what was answered in it."""

    def __init__(self) -> None:
        self.world = World()
        self.keys: list[int] = []
        self.holders: dict[int, UUID] = {}
        self.tokens: dict[int, int] = {}
        self.completions: dict[int, int] = {}

    def at(self, moment: Any) -> None:
        if isinstance(moment, list):
            self.commit(moment)
        elif moment[0] == "pass":
            self.world.advance(moment[1])
            self.commit([("fire", place, 0) for place in range(len(self.keys))])
        else:
            self.forget()
        self.check()

    def commit(self, commands: list[tuple[str, int, int]]) -> None:
        orders = [order for each in commands if (order := self.order(*each)) is not None]
        if not orders:
            return
        for order, answer in zip(orders, self.world.batch(*orders), strict=True):
            assert answer is not HELD
            assert not isinstance(answer, refusals.Internal)
            if isinstance(answer, StartedJob) and answer.started:
                self.keys.append(answer.job_key)
            elif isinstance(order, GrantTask) and answer is not None and not isinstance(answer, refusals.Refusal):
                self.holders[answer.job.job_key] = order.session_id
            elif isinstance(order, CompleteActivity) and answer == Outcome():
                key = order.ref.key
                assert key is not None
                self.completions[key] = self.completions.get(key, 0) + 1

    def order(self, verb: str, place: int, other: int) -> Any:
        if verb == "start":
            unique_key = "" if place % 4 == 0 else f"u{place % 2}"
            delay = 3.0 if other == 7 else None
            new = new_job(unique_key=unique_key, details=POLICIES[other % len(POLICIES)], delay_seconds=delay)
            return StartJob(new, Reuse(1 + other % 3), Conflict(1 + place // 4))
        if not self.keys:
            return None
        key = self.keys[-1 - place % len(self.keys)]
        ref, job = self.world.job_ref(key), self.job(key)
        if verb == "grant":
            waits = job is not None and (key, JOB_ORDINAL) in self.world.store.tasks
            return GrantTask(ref, JOB_ORDINAL, uuid4(), "worker") if waits else None
        if verb in ("cancel", "retry", "fire"):
            made = {"cancel": CancelJob(ref, "why"), "retry": RetryJob(ref), "fire": FireStep(ref, JOB_ORDINAL)}
            return made[verb]
        session, token = self.holders.get(key, self.world.session), (job.grants if job is not None else 1) - other
        if verb == "complete":
            return CompleteActivity(ref, JOB_ORDINAL, session, token, CAME)
        if verb == "fail":
            return FailActivity(ref, JOB_ORDINAL, session, token, FAILED)
        if verb == "stop":
            return CancelledActivity(ref, JOB_ORDINAL, session, token, NULL)
        return ReturnTask(ref, JOB_ORDINAL, token, session, counts=verb == "lose", reason="test")

    def job(self, key: int) -> Job | ClosedJob | None:
        jobs = self.world.store.jobs
        return jobs.jobs.get(key) or jobs.closed.get(key)

    def forget(self) -> None:
        """As retention does with the job that has ended longest ago."""
        store = self.world.store.jobs
        if not store.closed:
            return
        job = store.closed.pop(min(store.closed))
        del store.ids[job.job_id, MAIN]
        if store.names.get((job.unique_key, MAIN), (0, 0))[0] == job.job_key:
            del store.names[job.unique_key, MAIN]

    def check(self) -> None:
        self.world.check()
        for key in self.keys:
            job = self.job(key)
            if job is None:
                continue
            assert job.grants >= self.tokens.get(key, 0), "a token has fallen"
            self.tokens[key] = job.grants
            assert job.attempt <= job.grants
            most = (unpack_step_details(job.details).retry or RetryPolicy()).maximum_attempts
            assert not most or job.attempt <= most
            assert self.completions.get(key, 0) == (job.state == StepState.COMPLETED), "recorded once"
        open_jobs = [job.unique_key for job in self.world.store.jobs.jobs.values() if job.unique_key]
        assert len(open_jobs) == len(set(open_jobs)), "two open jobs of one key"

    def finish(self) -> None:
        """Whoever is still open comes to an end, if workers do their duty."""
        for _ in range(60):
            jobs = self.world.store.jobs.jobs
            if not jobs:
                return
            self.at(("pass", 5.0))
            for key in list(jobs):
                self.at([("grant", self._place(key), 0)])
                self.at([("complete", self._place(key), 0)])
        raise AssertionError("a job does not end")

    def _place(self, key: int) -> int:
        return len(self.keys) - 1 - self.keys.index(key)


def live(moments: list[Any]) -> None:
    lives = Lives()
    for moment in moments:
        lives.at(moment)
    lives.finish()


SHORT = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@SHORT
@given(st.lists(MOMENTS, max_size=30))
def test_random_lives_of_jobs(moments: list[Any]) -> None:
    """Tokens rise, attempts are counted, one end is recorded, one job of a key is open, and every job ends."""
    live(moments)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(SHORT, max_examples=3_000)
@given(st.lists(MOMENTS, max_size=80))
def test_many_random_lives_of_jobs(moments: list[Any]) -> None:
    """The same, for longer."""
    live(moments)
