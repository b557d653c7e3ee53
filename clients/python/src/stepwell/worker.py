"""The worker: takes tasks off a stream, runs workflows and activities, and reports what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from stepwell._activities import Activities
from stepwell._connection import Connection
from stepwell._outbox import Outbox
from stepwell._processes import Processes
from stepwell._roster import Runs
from stepwell._rpc import SDK, uuid7
from stepwell.definitions import Definition, definition_of
from stepwell.v1 import workers_pb2
from stepwell.v1.workers_pb2 import Capacity, CapacityUpdate, ConnectResponse, Hello, StepRecord, TaskRef

if TYPE_CHECKING:
    from stepwell.client import Client

log = logging.getLogger("stepwell.worker")

# Checkpoints' plain functions need threads besides those of activities.
_STEP_THREADS = 32
_ANSWER_SECONDS = 5.0


class Worker:
    """Performs workflows and activities of some queues, until it is told to leave.

    worker = Worker(client, "surveys", workflows=[survey], activities=[measure])
    await worker.run()
    """

    def __init__(
        self,
        client: Client,
        task_queues: str | Sequence[str] = "default",
        *,
        workflows: Sequence[Callable[..., Any]] = (),
        activities: Sequence[Callable[..., Any]] = (),
        max_activities: int = 100,
        max_runs: int = 200,
        max_resident_runs: int = 1000,
        build_id: str = "",
        compatible_build_ids: Sequence[str] = (),
        worker_id: str = "",
        executor: Literal["threads", "processes"] = "threads",
        drain_seconds: float = 30.0,
    ) -> None:
        """Prepares a worker; `run` connects it.

        At most `max_activities` are performed and `max_runs` advanced at once; besides those, `max_resident_runs` that
        wait stay in memory. `build_id` says which build of the program this is (default: none): a run goes on with the
        build that last recorded something of it, or with one that names it in `compatible_build_ids`. `worker_id` is
        stable over reconnects (default: host, process and a random part). `executor` is where plain activity functions
        run. Leaving, it gives what it is at `drain_seconds` to end. Raises `TypeError` for a function without its
        decorator.
        """
        self._client = client
        self._workflows = _definitions(workflows, is_workflow=True)
        self._activities = _definitions(activities, is_workflow=False)
        queues = [task_queues] if isinstance(task_queues, str) else list(task_queues)
        self._max_activities = max_activities
        self._executor = executor
        self._drain_seconds = drain_seconds
        self._leaving = asyncio.Event()
        identity = f"{socket.gethostname()}/{os.getpid()}"
        self.worker_id = worker_id or f"{identity}/{uuid7()[-8:]}"
        capacities = []
        if self._workflows:
            kind = workers_pb2.TASK_KIND_RUN
            capacities.append(Capacity(kind=kind, max_outstanding=max_runs, max_resident=max_resident_runs))
        if self._activities:
            capacities.append(Capacity(kind=workers_pb2.TASK_KIND_ACTIVITY, max_outstanding=max_activities))
        self._hello = Hello(
            namespace=client.namespace,
            worker_id=self.worker_id,
            task_queues=queues,
            workflow_types=self._workflows,
            activity_types=self._activities,
            build_id=build_id,
            compatible_build_ids=compatible_build_ids,
            identity=identity,
            sdk=SDK,
            capacity=CapacityUpdate(capacities=capacities),
        )
        self._outbox: Outbox
        self._connection: Connection
        self._runs: Runs
        self._performing: Activities
        self.is_connected = asyncio.Event()

    def shutdown(self) -> None:
        """Lets `run` finish what is in work and return. SIGTERM and SIGINT do the same. Safe to repeat."""
        self._leaving.set()

    async def run(self) -> None:
        """Works until `shutdown`. Connects again whenever the stream breaks.

        Raises `ServiceError` when the service refuses the worker for good: wrong key, unknown namespace.
        """
        loop = asyncio.get_running_loop()
        size = self._max_activities if self._executor == "threads" and self._activities else 0
        threads = ThreadPoolExecutor(size + _STEP_THREADS, thread_name_prefix="stepwell")
        processes = Processes(self._max_activities, loop) if self._executor == "processes" else None
        client = self._client
        self._outbox = outbox = Outbox()
        self._runs = Runs(self._workflows, client.converter, outbox, threads, self._read_steps)
        self._performing = Activities(self._activities, client.converter, outbox, self._runs, threads, processes)
        self._connection = Connection(client.open_channel, client.caller.proof, self._hello, outbox, self)
        connected = asyncio.create_task(self._connection.run())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            with _signals(loop, self._leaving.set):
                await asyncio.wait((connected, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not connected.done():
                    await self._drain(connected)
            await connected
        finally:
            for task in (connected, leaving):
                task.cancel()
            await asyncio.gather(connected, leaving, return_exceptions=True)
            self.session_lost()
            # A thread cannot be stopped: what is still running must not keep the program.
            threads.shutdown(wait=False, cancel_futures=True)
            if processes is not None:
                processes.close()

    async def _drain(self, connected: asyncio.Task[None]) -> None:
        log.info("leaving: what is in work is finished first")
        self._connection.drain()
        self._runs.leave()
        done = asyncio.gather(self._performing.all_ended(), self._runs.all_left())
        await asyncio.wait((done, connected), timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            done.cancel()
            await asyncio.gather(done, return_exceptions=True)
            self._runs.release_all("the worker is leaving")
            self._performing.release_all("the worker is leaving")
        answered = asyncio.create_task(self._outbox.all_answered())
        await asyncio.wait((answered, connected), timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()
        self._connection.close()
        await asyncio.wait((connected,), timeout=_ANSWER_SECONDS)

    async def _read_steps(self, ref: TaskRef) -> list[StepRecord]:
        """Reads the steps of a run that its task had no room for."""
        client = self._client
        seat = self._runs.seats[ref.task_id]
        after = seat.run.last_ordinal
        records: list[StepRecord] = []
        while True:
            request = workers_pb2.ListTaskStepsRequest(namespace=client.namespace, ref=ref, after_ordinal=after)
            page = await client.caller.call(client.worker_stub.ListTaskSteps, request)
            records.extend(page.steps)
            if not page.more_steps or not page.steps:
                return records
            after = page.steps[-1].ordinal

    # What the stream tells

    def held(self) -> list[TaskRef]:
        """Gives all tasks that are held."""
        runs = [seat.run.ref for seat in self._runs.seats.values()]
        return runs + [running.ref for running in self._performing.running.values()]

    def received(self, message: ConnectResponse) -> None:
        """Takes in a message.

        Assignments come first: what else the message says may be about them. Nothing can be taken for another grant of
        the same task, since each item carries its token.
        """
        self.is_connected.set()
        runs, performing = self._runs, self._performing
        for task in message.assigns:
            if task.kind == workers_pb2.TASK_KIND_RUN:
                runs.assign(task)
            else:
                performing.assign(task)
        if message.assigns:
            self._outbox.wake()
        for cancel in message.cancels:
            performing.cancel(cancel.ref)
            runs.cancel(cancel.ref, cancel.reason)
        for revoke in message.revokes:
            performing.revoke(revoke.ref)
            runs.revoke(revoke.ref)
        for result in message.results:
            self._outbox.answer(result)
        for beat in message.heartbeats:
            performing.beat_answered(beat)
        for advance in message.advances:
            runs.advance(advance)
        for query in message.queries:
            runs.ask(query)
        if message.HasField("rotate"):
            self._connection.rotate(message.rotate.within.ToTimedelta().total_seconds())

    def resumed(self, still_held: set[str]) -> None:
        """Drops what the session does not hold any more, unless a report about it is on its way."""
        known = still_held | self._outbox.reported_tasks()
        for ref in self.held():
            if ref.task_id not in known:
                self._performing.revoke(ref)
                self._runs.revoke(ref)

    def session_lost(self) -> None:
        """Drops everything."""
        for ref in self.held():
            self._performing.revoke(ref)
            self._runs.revoke(ref)


def _definitions(functions: Sequence[Callable[..., Any]], *, is_workflow: bool) -> dict[str, Definition]:
    noun = "workflow" if is_workflow else "activity"
    found: dict[str, Definition] = {}
    for function in functions:
        definition = definition_of(function)
        if definition is None or definition.is_workflow is not is_workflow:
            raise TypeError(f"{function!r} is no {noun}: decorate it with @{noun}")
        if definition.name in found:
            raise TypeError(f"there are two {noun} functions named {definition.name}")
        found[definition.name] = definition
    return found


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> Iterator[None]:
    """Lets SIGTERM and SIGINT begin the leaving; a second one does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    # Loops on Windows take no signal handlers: there Ctrl-C ends the worker as it ends any program.

    def once() -> None:
        restore()
        leave()

    def restore() -> None:
        for number in numbers:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)

    with contextlib.suppress(NotImplementedError):
        for number in numbers:
            loop.add_signal_handler(number, once)
    try:
        yield
    finally:
        restore()
