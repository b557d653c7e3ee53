"""What a case works with: a worker behind a tap of its own, a client beside it, and words for what must come to be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self, Unpack

from stepwell.client import Client
from stepwell.conformance.account import GRACE_SECONDS, Grant, Limits
from stepwell.conformance.cases import Broken
from stepwell.conformance.link import Link
from stepwell.conformance.program import Program
from stepwell.conformance.tap import Tap
from stepwell.errors import JobFailed, RunFailed, ServiceError
from stepwell.jobs import JobHandle
from stepwell.options import JobOptions
from stepwell.runs import RunHandle
from stepwell.v1 import types_pb2
from stepwell.v1.types_pb2 import Failure
from stepwell.v1.workers_pb2 import CloseSessionRequest, ConnectRequest, ConnectResponse, Report, TaskRef
from stepwell.worker import Worker

PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.02
_HOP_SECONDS = 0.1
_SETTLING_SECONDS = 5.0
_DEFAULTS = {"STEPWELL_MAX_ACTIVITIES": "10", "STEPWELL_MAX_RUNS": "10", "STEPWELL_MAX_RESIDENT": "10"}


class Setting(NamedTuple):
    """What the cases of one command have in common; `patience` is in seconds, `starting` is held by who starts it."""

    command: Sequence[str]
    client: Client
    replicas: Sequence[str]
    folder: Path
    patience: float
    starting: asyncio.Semaphore


class Stage:
    """See the module. Entering opens the tap; `start` starts the worker.

    What should come soon has `patience` seconds to come, unless a case says otherwise.
    """

    def __init__(self, setting: Setting, queue: str, settings: dict[str, str]) -> None:
        """Prepares it, with a queue of its own. `settings` are the worker's variables, where they are not the usual."""
        self.client = setting.client
        self.queue = queue
        self.patience = setting.patience
        self._command = setting.command
        self._starting = setting.starting
        self._folder = folder = setting.folder
        self._ledger = folder / f"{queue}.ledger"
        self._settings = _DEFAULTS | settings
        limits = [int(self._settings[f"STEPWELL_MAX_{name}"]) for name in ("ACTIVITIES", "RUNS", "RESIDENT")]
        self.tap = Tap(setting.replicas, Limits(*limits))
        self.program: Program
        self._programs: list[Program] = []
        self._begun: list[JobHandle[Any] | RunHandle[Any]] = []

    async def __aenter__(self) -> Self:
        """Opens the tap."""
        await self.tap.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the worker, in order if it can, and closes the tap."""
        self.tap.calm()
        for program in self._programs:
            program.terminate()
            with contextlib.suppress(TimeoutError):
                await program.ended(2.0)
            await program.kill()
        await self.tap.__aexit__(kind, error, trace)

    async def start(self, **variables: str) -> Program:
        """Starts a worker."""
        told = self._settings | variables
        told |= {
            "STEPWELL_ADDRESS": self.tap.address,
            "STEPWELL_NAMESPACE": self.client.namespace,
            "STEPWELL_TASK_QUEUE": self.queue,
            "STEPWELL_LEDGER": str(self._ledger),
        }
        log = self._folder / f"{self.queue}-{len(self._programs)}.log"
        async with self._starting:
            self.program = await Program.start(self._command, told, log)
        self._programs.append(self.program)
        return self.program

    async def settle(self) -> bool:
        """Ends what a case left behind. False if the worker is not as it was: then another case needs a new one."""
        self.tap.calm()
        for handle in self._begun:
            with contextlib.suppress(ServiceError):
                await (handle.terminate() if isinstance(handle, RunHandle) else handle.cancel())
        self._begun.clear()
        deadline = time.monotonic() + _SETTLING_SECONDS
        while time.monotonic() < deadline and not self.program.has_ended:
            if self.tap.account.is_empty() and self.tap.link is not None:
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    @property
    def is_started(self) -> bool:
        """Whether a worker was started."""
        return bool(self._programs)

    # What is asked of the worker

    async def job(self, kind: str, value: object = None, **options: Unpack[JobOptions]) -> JobHandle[Any]:
        """Starts a job for the worker."""
        options["task_queue"] = self.queue
        handle = await self.client.start_job(kind, value, **options)
        self._begun.append(handle)
        return handle

    async def run(self, kind: str, value: object = None) -> RunHandle[Any]:
        """Starts a run for the worker."""
        handle: RunHandle[Any] = await self.client.start_run(kind, value, task_queue=self.queue)
        self._begun.append(handle)
        return handle

    async def result(self, handle: JobHandle[Any] | RunHandle[Any], seconds: float = 0.0) -> Any:  # noqa: ANN401
        """Gives what it returned. Broken if it ends otherwise, or not in time."""
        end, value = await self._end(handle, seconds or self.patience)
        self.true(end == "COMPLETED", f"{_name(handle)} completes", f"{end}: {value}")
        return value

    async def failure(self, handle: JobHandle[Any] | RunHandle[Any], end: str) -> Failure:
        """Gives why it failed. Broken unless it ends in that state, and in time."""
        seen, failure = await self._end(handle, self.patience)
        self.same(f"{_name(handle)} ends", end, seen)
        return failure if isinstance(failure, Failure) else Failure()

    async def _end(self, handle: JobHandle[Any] | RunHandle[Any], seconds: float) -> tuple[str, Any]:
        end, value = "", None
        try:
            async with asyncio.timeout(seconds):
                end, value = "COMPLETED", await handle.result()
        except TimeoutError:
            self.fail(f"{_name(handle)} ends", f"it has not in {seconds:.0f} s")
        except (JobFailed, RunFailed) as error:
            end, value = error.state if isinstance(error, JobFailed) else error.phase, error.failure
        return end, value

    async def given(self, handle: JobHandle[Any] | RunHandle[Any]) -> Grant:
        """Waits until the worker has it, and has shown that it knows."""
        found: Grant = await self.until(
            lambda: grant if (grant := self.grant(handle)) and grant.is_known else None,
            f"the worker takes {_name(handle)}",
        )
        # What the tap has heard is on its way to the service, and shall not be lost in what comes next.
        await asyncio.sleep(_HOP_SECONDS)
        return found

    def grant(self, handle: JobHandle[Any] | RunHandle[Any]) -> Grant | None:
        """Gives the latest grant of a job or a run, if the worker was given it."""
        account = self.tap.account
        return (
            account.grant(run_id=handle.run_id)
            if isinstance(handle, RunHandle)
            else account.grant(job_id=handle.job_id)
        )

    async def waits(self, *handles: RunHandle[Any]) -> None:
        """Waits until runs wait for something, by the record."""
        for handle in handles:

            async def look(handle: RunHandle[Any] = handle) -> object:
                return (await handle.describe()).phase == types_pb2.RUN_PHASE_SUSPENDED

            await self.until(look, f"{_name(handle)} comes to where it waits")

    async def resident(self, handle: RunHandle[Any]) -> Grant:
        """Waits until a run waits in the worker's memory."""
        found: Grant = await self.until(
            lambda: grant if (grant := self.grant(handle)) and grant.is_waiting else None,
            f"{_name(handle)} stays in the worker's memory while it waits",
        )
        return found

    async def attempts(self, handle: JobHandle[Any]) -> int:
        """Gives how many attempts a job has had."""
        return (await handle.describe()).attempt

    async def close_session(self) -> None:
        """Ends the worker's session behind its back."""
        request = CloseSessionRequest(namespace=self.client.namespace, session_id=self.tap.account.session_id)
        await self.client.caller.call(self.client.worker_stub.CloseSession, request)

    @contextlib.asynccontextmanager
    async def code(self, *workflows: Callable[..., Any]) -> AsyncIterator[None]:
        """Lets workflows of the kit's own run beside the worker, for activities that belong to runs."""
        beside = Worker(self.client, self.queue, workflows=workflows, drain_seconds=1.0)
        working = asyncio.create_task(beside.run())
        try:
            await beside.is_connected.wait()
            yield
        finally:
            beside.shutdown()
            await working

    def ledger(self, key: str) -> list[dict[str, Any]]:
        """Gives the effects of a key, as the worker noted them."""
        if not self._ledger.exists():
            return []
        lines = [json.loads(line) for line in self._ledger.read_text().splitlines()]
        return [line for line in lines if line["key"] == key or line["key"].startswith(key + "/")]

    # What was said

    def reports(self, ref: TaskRef) -> list[Report]:
        """Gives all reports of one grant that the worker has sent, in their order."""
        return [
            report
            for link in self.tap.links
            for request in link.requests
            for report in request.reports
            if report.ref == ref
        ]

    def times(self, ref: TaskRef) -> list[float]:
        """Gives when reports of one grant were heard: seconds since the case began."""
        return [
            each.time
            for each in self.tap.said
            if isinstance(each.what, ConnectRequest) and any(report.ref == ref for report in each.what.reports)
        ]

    def told(self) -> list[ConnectResponse]:
        """Gives all that the worker was told on the streams of this case."""
        return [response for link in self.tap.links for response in link.responses]

    @property
    def link(self) -> Link:
        """The worker's stream. Broken if none stands."""
        link = self.tap.link
        if link is None:
            self.fail("the worker has a stream", "it has none", "sessions")
        return link

    async def next_link(self, former: Link, seconds: float = 0.0) -> Link:
        """Waits for a stream of the same session, after one that is over or is to be left."""

        def found() -> Link | None:
            link = self.tap.link
            return link if link is not None and link is not former and link.responses else None

        link: Link = await self.until(found, "the worker opens another stream", "sessions", seconds)
        self.same(
            "the next hello names the session",
            former.responses[0].welcome.session_id,
            link.hello.session_id,
            "sessions",
        )
        return link

    async def forgets(self) -> None:
        """Breaks the stream off once it is late for what is over: the next hello names nothing of that."""
        await asyncio.sleep(GRACE_SECONDS)
        former = self.link
        self.tap.cut()
        await self.next_link(former)
        self.check()

    # What must be

    def fail(self, expected: str, seen: str, section: str = "") -> NoReturn:
        """Says that the worker did otherwise. What it did that it may never do is told first."""
        self.check()
        raise Broken(expected, seen, section)

    async def over(self) -> None:
        """At the end of a case, all that is owed is paid, and nothing was done that may never be."""

        def paid() -> bool:
            return self.program.has_ended or not any(grant.owes_progress for grant in self.tap.account.held())

        await self.until(paid, "each Advance is answered with a Progress", "capacity", 5)
        self.check()

    def check(self) -> None:
        """Raises the first thing that the worker may never do, if it did any."""
        if self.tap.account.violations:
            raise self.tap.account.violations[0]

    def same(self, what: str, expected: object, seen: object, section: str = "") -> None:
        """Two values must be the same."""
        if expected != seen:
            self.fail(f"{what}: {_shown(expected)}", _shown(seen), section)

    def true(self, holds: object, expected: str, seen: str, section: str = "") -> None:
        """Something must hold."""
        if not holds:
            self.fail(expected, seen, section)

    async def until(
        self,
        look: Callable[[], Any],
        expected: str,
        section: str = "",
        seconds: float = 0.0,
    ) -> Any:  # noqa: ANN401 - what `look` gives
        """Waits until `look()`, which may be async, gives something, and gives that. Broken if it never does."""
        seconds = seconds or self.patience
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            self.check()
            if self.program.has_ended:
                self.fail(expected, f"the worker has ended: {self.program.last_words()}", section)
            if time.monotonic() > deadline:
                self.fail(expected, f"not so after {seconds:.0f} s", section)
            await asyncio.sleep(_LOOK_SECONDS)


def _name(handle: JobHandle[Any] | RunHandle[Any]) -> str:
    return f"run {handle.run_id}" if isinstance(handle, RunHandle) else f"job {handle.job_id}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"  # noqa: PLR2004 - what a person reads
