"""Sessions and streams: resumed, expired, moved, silent, slow; and how a worker leaves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import grpc

from stepwell.conformance.account import GRACE_SECONDS
from stepwell.conformance.cases import case
from stepwell.conformance.link import Link
from stepwell.conformance.stage import Stage
from stepwell.jobs import JobHandle
from stepwell.v1.workers_pb2 import ConnectResponse, Rotate

_PATIENT_SECONDS = 3.0
_SILENT_SECONDS = 45.0


@case("activities", "sessions")
async def resume(stage: Stage) -> None:
    """A stream that broke is followed by one to another replica that names all that is held; nothing is begun anew."""
    former = stage.link
    await stage.result(await stage.job("echo", "over"))
    # From then on the hello may not name it.
    await asyncio.sleep(GRACE_SECONDS)
    jobs = await _effects(stage, "resumed", 4)
    stage.tap.move()
    stage.tap.cut()
    link = await stage.next_link(former)
    stage.true(link.replica != former.replica, "another replica", "the same")
    stage.true(link.hello.capacity.capacities, "the hello states the capacity", "it states none")
    await _are_done_once(stage, "resumed", jobs)


async def _effects(stage: Stage, key: str, count: int) -> list[JobHandle[Any]]:
    """Starts effects that take two seconds, and waits until the worker has them."""
    jobs = [await stage.job("effect", {"key": f"{key}/{number}", "seconds": 2.0}) for number in range(count)]
    for job in jobs:
        await stage.given(job)
    return jobs


async def _are_done_once(stage: Stage, key: str, jobs: Sequence[JobHandle[Any]]) -> None:
    for number, job in enumerate(jobs):
        stage.same("effect returns its key", f"{key}/{number}", await stage.result(job))
        stage.same("attempts", 1, await stage.attempts(job))
    stage.same("effects", len(jobs), len(stage.ledger(key)))


@case("activities", "refusals")
async def ended_streams(stage: Stage) -> None:
    """A stream that the service ends, as it does for a slow reader, a stop or want of a database, is resumed."""
    job = await stage.job("hold", {"seconds": 4.0})
    await stage.given(job)
    for code, reason in (
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS"),
        (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"),
        (grpc.StatusCode.OK, ""),
    ):
        former = stage.link
        former.cut(code, reason)
        await stage.next_link(former)
    stage.same("hold returns", "held", await stage.result(job))
    stage.same("attempts", 1, await stage.attempts(job))


@case("activities", "sessions")
async def expired_session(stage: Stage) -> None:
    """A session that is over: the worker drops all that it held, reports nothing of it, and says hello anew."""
    former = stage.link
    jobs = [await stage.job("hold", {"seconds": GRACE_SECONDS + 1.5}) for _ in range(2)]
    old = [await stage.given(job) for job in jobs]
    stage.tap.refuses = True
    stage.tap.cut()
    await stage.close_session()
    # The one comes back to the worker, the other to nobody.
    await jobs[1].cancel("enough")
    stage.tap.refuses = False
    await stage.until(lambda: _is_anew(stage, former), "a hello without a session")
    stage.same("hold returns, performed anew", "held", await stage.result(jobs[0]))
    await asyncio.sleep(1.0)
    stage.check()
    sent = [report for grant in old for report in stage.reports(grant.task.ref)]
    stage.same("reports under the old tokens", 0, len(sent))


def _is_anew(stage: Stage, former: Link) -> bool:
    link = stage.tap.link
    return link is not None and link is not former and bool(link.responses) and not link.hello.session_id


@case("activities", "sessions")
async def patience(stage: Stage) -> None:
    """A worker that is refused a stream tries again now and then, and resumes its session once it can."""
    former = stage.link
    job = await stage.job("hold", {"seconds": _PATIENT_SECONDS + 1.0})
    await stage.given(job)
    stage.tap.refuses = True
    stage.tap.cut()
    await asyncio.sleep(_PATIENT_SECONDS)
    tries = len(stage.tap.refused)
    stage.true(0 < tries < 30, f"a few tries in {_PATIENT_SECONDS:.0f} s", f"{tries}")
    stage.tap.refuses = False
    await stage.next_link(former)
    stage.same("hold returns", "held", await stage.result(job))
    stage.same("attempts", 1, await stage.attempts(job))


@case("activities", "fields")
async def pings(stage: Stage) -> None:
    """A ping is answered by a pong with its number."""
    link = stage.link
    await link.tell(ConnectResponse(ping=7_777))
    await stage.until(
        lambda: any(request.pong == 7_777 for request in link.requests), "a pong with its number", seconds=5
    )


@case("activities", "leaving")
async def rotate(stage: Stage) -> None:
    """A worker that is asked to connect anew opens another connection, resumes there, and leaves the old one."""
    former = stage.link
    jobs = await _effects(stage, "rotated", 3)
    stage.tap.move()
    asked = Rotate()
    asked.within.FromMilliseconds(500)
    await former.tell(ConnectResponse(rotate=asked))
    link = await stage.next_link(former)
    stage.true(link.peer != former.peer, "a new connection", "another stream on the old one")
    await stage.until(lambda: former.is_over, "the old stream is closed")
    await _are_done_once(stage, "rotated", jobs)


@case("activities", "losses", is_long=True, is_alone=True, seconds=110)
async def half_open(stage: Stage) -> None:
    """A stream over which nothing comes, though nothing ended it, is given up after 30 s, and the session resumed."""
    former = stage.link
    short = await stage.job("effect", {"key": "half-open", "seconds": 2.0})
    long = await stage.job("hold", {"seconds": _SILENT_SECONDS})
    for job in (short, long):
        await stage.given(job)
    former.hush()
    began = time.monotonic()
    await stage.next_link(former, _SILENT_SECONDS)
    after = time.monotonic() - began
    stage.true(after > 15, "a stream that was silent for less than 20 s is left alone", f"given up after {after:.0f} s")
    stage.same("effect returns its key", "half-open", await stage.result(short))
    stage.same("effects", 1, len(stage.ledger("half-open")))
    stage.same("hold returns", "held", await stage.result(long, _SILENT_SECONDS))
    stage.same("attempts", 1, await stage.attempts(long))


@case("activities", "stream")
async def slow_link(stage: Stage) -> None:
    """Over a link that takes 0.3 s either way activities are done as ever."""
    stage.tap.delay = 0.3
    await _echoes(stage, 25, "x")


@case("activities", "stream")
async def slow_reader(stage: Stage) -> None:
    """A service that reads a message every 0.1 s, and so makes the worker wait with its own, gets large results."""
    stage.tap.stall = 0.1
    await _echoes(stage, 12, "x" * 300_000)


async def _echoes(stage: Stage, count: int, text: str) -> None:
    jobs = [await stage.job("echo", f"{number} {text}") for number in range(count)]
    for number, job in enumerate(jobs):
        stage.same("echo returns its input", f"{number} {text}", await stage.result(job))
        stage.same("attempts", 1, await stage.attempts(job))


@case("activities", "leaving", is_alone=True)
async def drain(stage: Stage) -> None:
    """Told to leave, the worker asks for no more, ends and reports what it has, and exits with 0."""
    link = stage.link
    jobs = [await stage.job("hold", {"seconds": 1.5}) for _ in range(2)]
    for job in jobs:
        await stage.given(job)
    stage.program.terminate()
    await stage.until(lambda: any(request.drain for request in link.requests), "a message with `drain`")
    late = [await stage.job("echo", number) for number in range(3)]
    for job in jobs:
        stage.same("hold returns", "held", await stage.result(job))
        stage.same("attempts", 1, await stage.attempts(job))
    await leaves(stage)
    stage.true(link.is_half_closed, "the stream is half-closed", "it was broken off")
    ended = [job for job in late if (await job.describe()).HasField("end_time")]
    stage.same("activities that were performed though they came later", 0, len(ended))


@case("workflows", "leaving", is_alone=True)
async def drain_of_runs(stage: Stage) -> None:
    """Told to leave, the worker gives back the runs that wait in its memory, and exits with 0."""
    runs = [await stage.run("waiter") for _ in range(3)]
    grants = [await stage.resident(run) for run in runs]
    stage.program.terminate()
    await leaves(stage)
    for grant in grants:
        sent = [report.WhichOneof("outcome") for report in stage.reports(grant.task.ref)]
        stage.same("its last report", "release", sent[-1])
    await stage.start()
    for number, run in enumerate(runs):
        await run.signal("go", number)
        stage.same("the signal's payload", number, await stage.result(run))


async def leaves(stage: Stage) -> None:
    """A worker that was told to leave exits with 0."""
    code: int | None = None
    with contextlib.suppress(TimeoutError):
        code = await stage.program.ended()
    stage.same("exit code", 0, code)
