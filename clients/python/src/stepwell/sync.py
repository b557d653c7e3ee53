"""The client for programs without asyncio: the same core, on a loop in a thread of its own.

    with Client.connect("127.0.0.1:7233") as client:
        report = client.start_run(survey, "json").result(timeout=60)

Safe across threads; calls from many threads at once share calls to the service. Not to be used inside a running loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, Unpack, overload

from stepwell import client as _client
from stepwell import runs as _runs
from stepwell._attributes import SyncAttributes
from stepwell._mending import SyncMending
from stepwell._settling import SyncSettling
from stepwell._sync_api_keys import SyncApiKeys
from stepwell._sync_bulk import SyncBulk
from stepwell._sync_definitions import SyncDefinitions
from stepwell._sync_inbox import SyncInbox
from stepwell._sync_jobs import JobHandle, SyncJobCalls
from stepwell._sync_namespaces import SyncNamespaceCalls
from stepwell._sync_retention import SyncRetention
from stepwell._sync_schedules import SyncSchedules
from stepwell._sync_sessions import SyncSession
from stepwell._sync_starts import SyncStarts
from stepwell._sync_statistics import SyncStatistics
from stepwell._sync_topics import SyncTopics
from stepwell._sync_user_tasks import SyncUserTasks
from stepwell.commits import SyncCommit

if TYPE_CHECKING:
    import grpc

    from stepwell._ends import RunEnd, RunNotice
    from stepwell._proofs import ApiKey
    from stepwell.converter import Codec, DataConverter
    from stepwell.options import RunFilter
    from stepwell.policies import Seconds
    from stepwell.task_queues import RateLimit
    from stepwell.tls import Tls
    from stepwell.v1 import explanations_pb2, history_pb2, runs_pb2, task_queues_pb2, workers_pb2

__all__ = ["Client", "JobHandle", "Loop", "RunHandle"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# A hop to the loop and back costs as much as a hundred items.
_BATCH = 256


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stepwell-client", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs a coroutine there. Raises `TimeoutError` when the seconds are over."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None], at_once: int = _BATCH) -> Iterator[T]:
        """Reads an asynchronous iterator from here, so many at once: of what comes as it happens, one."""
        reading: list[asyncio.Task[Any]] = []

        async def following() -> list[T]:
            task = asyncio.current_task()
            reading[:] = [task] if task is not None else []
            batch: list[T] = []
            while len(batch) < at_once:
                try:
                    batch.append(await anext(items))
                except StopAsyncIteration:
                    break
            return batch

        async def left() -> None:
            # An interrupt may come when a read is under way and nobody here has hold of it.
            for task in reading:
                task.cancel()
            if reading:
                await asyncio.wait(reading)
            await items.aclose()

        try:
            while batch := self.call(following()):
                yield from batch
        finally:
            self.call(left())

    def close(self) -> None:
        """Ends the loop and its thread, with what is under way in it."""
        self.call(_end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_all() -> None:
    """Ends the loop's tasks, as `asyncio.run` does: those of gRPC outlive their calls by a turn of the loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class RunHandle(SyncMending, SyncSettling, SyncAttributes, Generic[T_co]):
    """A run, as `stepwell.RunHandle`, whose calls return when they are done."""

    def __init__(self, loop: Loop, inner: _runs.RunHandle[T_co]) -> None:
        """Made by `Client.start_run` and `Client.run`."""
        self._loop = loop
        self._inner = inner

    def __repr__(self) -> str:
        """Names the run."""
        return repr(self._inner)

    @property
    def _settling(self) -> _runs.RunHandle[T_co]:
        return self._inner

    @property
    def _mending(self) -> _runs.RunHandle[T_co]:
        return self._inner

    @property
    def _attributed(self) -> _runs.RunHandle[T_co]:
        return self._inner

    @property
    def run_id(self) -> str:
        """The run's id; empty if the handle names it by workflow id."""
        return self._inner.run_id

    @property
    def workflow_id(self) -> str:
        """The caller's name for the run."""
        return self._inner.workflow_id

    @property
    def started(self) -> bool:
        """Whether the start that gave this handle made the run."""
        return self._inner.started

    def result(self, timeout: float | None = None) -> T_co:
        """Waits until the run has ended, at most `timeout` seconds (default: for ever), and gives what it returned.

        Raises `RunFailed`, `RunPurged`, `RunNotFound`, `TimeoutError`.
        """
        return self._loop.call(self._inner.result(), timeout)

    def signal(self, name: str, value: object = None, *, request_id: str | None = None) -> None:
        """Sends a signal; it is kept until the run waits for it. Raises `RunNotFound`, `RunTerminal`."""
        self._loop.call(self._inner.signal(name, value, request_id=request_id))

    def query(
        self,
        name: str,
        input: object = None,  # noqa: A002
        *,
        wait: float = 10.0,
        as_type: object = None,
    ) -> _runs.QueryAnswer:
        """Asks the run's code about its state, as `stepwell.RunHandle.query`."""
        return self._loop.call(self._inner.query(name, input, wait=wait, as_type=as_type))

    def update(
        self,
        name: str,
        input: object = None,  # noqa: A002
        *,
        update_id: str = "",
        wait_for: Literal["accepted", "completed"] = "completed",
        as_type: object = None,
        timeout: float | None = None,
    ) -> Any:  # noqa: ANN401 - what the code returned
        """Asks the run's code to make a change, as `stepwell.RunHandle.update`, and waits for it.

        At most `timeout` seconds (default: for ever). Raises `TimeoutError` besides what that raises.
        """
        asked = self._inner.update(name, input, update_id=update_id, wait_for=wait_for, as_type=as_type)
        return self._loop.call(asked, timeout)

    def cancel(self, reason: str = "") -> bool:
        """Asks the run to cancel: its code may clean up first. False if it had ended or had been asked before."""
        return self._loop.call(self._inner.cancel(reason))

    def terminate(self, reason: str = "") -> bool:
        """Ends the run at once, without clean-up. False if it had ended."""
        return self._loop.call(self._inner.terminate(reason))

    def pause(self, reason: str = "") -> bool:
        """Stops work on the run until it is resumed. False if it was paused already."""
        return self._loop.call(self._inner.pause(reason))

    def resume(self, *, accept_order: bool = False) -> bool:
        """Lets a paused run go on. False if it was not paused. Raises `RunPaused`."""
        return self._loop.call(self._inner.resume(accept_order=accept_order))

    def pin(self, build_id: str) -> bool:
        """Pins the run to a build, or with `""` to none. False if it was pinned so already. Raises `RunTerminal`."""
        return self._loop.call(self._inner.pin(build_id))

    def describe(self) -> runs_pb2.Run:
        """Reads the run as it is now. Raises `RunNotFound`."""
        return self._loop.call(self._inner.describe())

    def explain(self) -> list[explanations_pb2.Explanation]:
        """Tells why the run does not move, and what to do about it. Raises `RunNotFound`."""
        return self._loop.call(self._inner.explain())

    def history(self) -> Iterator[history_pb2.Event]:
        """Reads the run's events by number. Raises `RunNotFound`."""
        return self._loop.iterate(self._inner.history())

    def follow(self) -> Iterator[history_pb2.Event]:
        """Reads the run's events as they are recorded, to its end, and on with the run that continues it."""
        return self._loop.iterate(self._inner.follow(), at_once=1)

    def data(self, *names: str) -> dict[str, Any]:
        """Reads the data that an outside engine keeps of the run, by name: those named, default all."""
        return self._loop.call(self._inner.data(*names))

    def steps(self, *, states: Sequence[str] = ()) -> Iterator[runs_pb2.Step]:
        """Reads the run's steps in the order of their creation: of `states` such as `waiting`, default all.

        Raises `RunNotFound`.
        """
        return self._loop.iterate(self._inner.steps(states=states))


class Client(SyncStarts, SyncJobCalls, SyncNamespaceCalls):
    """A connection to the service, as `stepwell.Client`, whose calls return when they are done."""

    def __init__(self, loop: Loop, inner: _client.Client) -> None:
        """Use `Client.connect`."""
        super().__init__(loop, inner)
        self._loop = loop
        self._inner = inner
        self.schedules = SyncSchedules(loop, inner.schedules)
        self.api_keys = SyncApiKeys(loop, inner.api_keys)
        self.topics = SyncTopics(loop, inner.topics)
        self.statistics = SyncStatistics(loop, inner.statistics)
        self.user_tasks = SyncUserTasks(loop, inner.user_tasks)
        self.bulk = SyncBulk(loop, inner.bulk)
        self.inbox = SyncInbox(loop, inner.inbox)
        self.retention = SyncRetention(loop, inner.retention)
        self.definitions = SyncDefinitions(loop, inner.definitions)

    @classmethod
    def connect(
        cls,
        address: str = "127.0.0.1:7233",
        *,
        namespace: str = "main",
        api_key: ApiKey | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | bool | None = None,
        converter: DataConverter | None = None,
        codec: Codec | None = None,
        connect_timeout: float = 10.0,
        call_timeout: float = 60.0,
    ) -> Self:
        """Connects to the service; the options are those of `stepwell.Client.connect`.

        Raises `Unavailable`, `CertificateError`.
        """
        loop = Loop()
        try:
            inner = loop.call(
                _client.Client.connect(
                    address,
                    namespace=namespace,
                    api_key=api_key,
                    credentials=credentials,
                    tls=tls,
                    converter=converter,
                    codec=codec,
                    connect_timeout=connect_timeout,
                    call_timeout=call_timeout,
                )
            )
        except BaseException:
            loop.close()
            raise
        return cls(loop, inner)

    def close(self) -> None:
        """Closes the connection and ends its thread."""
        self._loop.call(self._inner.close())
        self._loop.close()

    def __enter__(self) -> Self:
        """Gives the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        self.close()

    def _handle(self, run: _runs.RunHandle[T]) -> RunHandle[T]:
        return RunHandle(self._loop, run)

    def run(self, run_id: str = "", *, workflow_id: str = "", as_type: type[T] | None = None) -> RunHandle[T]:
        """Gives a handle to a run that exists; asks nothing of the service. `as_type` is what its result becomes."""
        return RunHandle(self._loop, self._inner.run(run_id, workflow_id=workflow_id, as_type=as_type))

    def list_runs(self, *, limit: int | None = None, **only: Unpack[RunFilter]) -> Iterator[runs_pb2.Run]:
        """Lists runs, newest first, without their payloads; at most `limit`."""
        return self._loop.iterate(self._inner.list_runs(limit=limit, **only))

    def list_workers(self) -> Iterator[workers_pb2.Worker]:
        """Lists the namespace's live workers in the order of their registration."""
        return self._loop.iterate(self._inner.list_workers())

    def open_session(
        self,
        worker_id: str,
        *,
        task_queues: str | Collection[str] = "default",
        workflow_types: Collection[str] = (),
        activity_types: Collection[str] = (),
        build_id: str = "",
        compatible_build_ids: Collection[str] = (),
        identity: str = "",
    ) -> SyncSession:
        """Begins to work without a stream, as `stepwell.Client.open_session`: `with client.open_session(...)`."""
        opened = self._inner.open_session(
            worker_id,
            task_queues=task_queues,
            workflow_types=workflow_types,
            activity_types=activity_types,
            build_id=build_id,
            compatible_build_ids=compatible_build_ids,
            identity=identity,
        )
        return SyncSession(self._loop, self._loop.call(opened))

    def list_task_queues(self) -> Iterator[task_queues_pb2.TaskQueue]:
        """Lists by name the queues in which something waits or from which a live worker takes."""
        return self._loop.iterate(self._inner.list_task_queues())

    def get_task_queue(self, name: str) -> task_queues_pb2.GetTaskQueueResponse:
        """Reads what waits in a queue, sort by sort, and who could take it. Raises `InvalidField`."""
        return self._loop.call(self._inner.get_task_queue(name))

    def update_task_queue(
        self,
        name: str,
        *,
        rate_limit: RateLimit | Literal["none"] | None = None,
        aging: Seconds | Literal["none"] | None = None,
        fairness: Mapping[str, int] | Literal["none"] | None = None,
        key_rate_limit: RateLimit | Literal["none"] | None = None,
    ) -> task_queues_pb2.TaskQueueSettings:
        """Sets how fast a queue gives its tasks, and in how many seconds one that waits gains a step of priority.

        With `fairness` keys take turns; it says what they weigh: `{}` for 1 each. Then `key_rate_limit` may say how
        fast tasks of each key are given. What is not given stays; "none" takes it away. Raises `InvalidField`,
        `LimitExceeded`.
        """
        return self._loop.call(
            self._inner.update_task_queue(
                name, rate_limit=rate_limit, aging=aging, fairness=fairness, key_rate_limit=key_rate_limit
            )
        )

    def commit(self, *, request_id: str = "") -> SyncCommit:
        """Begins a commit, as `stepwell.Client.commit`: `with client.commit() as commit`."""
        inner = self._inner
        return SyncCommit(self._loop, inner.send_commit, inner.namespace, inner.converter, request_id)

    @overload
    def watch_runs(self) -> Iterator[RunEnd]: ...

    @overload
    def watch_runs(self, *, starts: bool = ..., pauses: bool = ...) -> Iterator[RunEnd | RunNotice]: ...

    def watch_runs(self, *, starts: bool = False, pauses: bool = False) -> Iterator[Any]:
        """Follows the ends of the namespace's runs from now on, until it is left; also starts, pauses, as asked for."""
        return self._loop.iterate(self._inner.watch_runs(starts=starts, pauses=pauses), at_once=1)
