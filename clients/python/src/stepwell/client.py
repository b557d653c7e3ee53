"""The client: starts runs and jobs, finds them again, and reads what the service knows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

from stepwell import _tracing, errors, reasons
from stepwell._batches import Coalescer
from stepwell._ends import RunEnd, RunEnds, RunNews, RunNotice
from stepwell._rpc import SDK, Caller, open_channel, uuid_of, wait_ready
from stepwell._watch import Wait, Watchers, news
from stepwell.api_keys import ApiKeys
from stepwell.bulk import Bulk
from stepwell.commits import Commit
from stepwell.converter import Codec, DataConverter, converter_with
from stepwell.inbox import Inbox
from stepwell.jobs import JobCalls
from stepwell.namespaces import NamespaceCalls
from stepwell.options import RunFilter, definition_of
from stepwell.policies import Seconds
from stepwell.retention import Retention
from stepwell.runs import PAGE_SIZE, RunHandle
from stepwell.schedules import Schedules
from stepwell.sessions import Session
from stepwell.starts import RunStarts
from stepwell.statistics import Statistics
from stepwell.task_queues import RateLimit, update_task_queue
from stepwell.tls import Encryption, Tls
from stepwell.topics import Topics
from stepwell.user_tasks import UserTasks
from stepwell.v1 import runs_pb2, task_queues_pb2, transactions_pb2, workers_pb2
from stepwell.v1.history_pb2_grpc import HistoryServiceStub
from stepwell.v1.namespaces_pb2_grpc import NamespaceServiceStub
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.runs_pb2_grpc import RunServiceStub
from stepwell.v1.task_queues_pb2_grpc import TaskQueueServiceStub
from stepwell.v1.transactions_pb2_grpc import TransactionServiceStub
from stepwell.v1.types_pb2 import RunPhase
from stepwell.v1.workers_pb2_grpc import WorkerServiceStub
from stepwell.workflow_definitions import Definitions

if TYPE_CHECKING:
    import grpc

    from stepwell._proofs import ApiKey

T = TypeVar("T")


class Client(RunStarts, JobCalls, NamespaceCalls):
    """A connection to the service, for one namespace. Use one for all of a program; it is not safe across threads."""

    def __init__(
        self,
        address: str,
        *,
        namespace: str,
        api_key: ApiKey | None,
        encryption: Encryption,
        converter: DataConverter,
        call_timeout: float,
    ) -> None:
        """Use `Client.connect`."""
        self.address = address
        self._encryption = encryption
        self._channel = open_channel(address, encryption.credentials())
        super().__init__(self._channel, Caller(api_key, call_timeout), namespace, converter, call_timeout)
        self.run_stub = RunServiceStub(self._channel)
        self.history_stub = HistoryServiceStub(self._channel)
        self.run_store_stub = RunStoreStub(self._channel)
        self.namespace_stub = NamespaceServiceStub(self._channel)
        self.worker_stub = WorkerServiceStub(self._channel)
        self.task_queue_stub = TaskQueueServiceStub(self._channel)
        self.transaction_stub = TransactionServiceStub(self._channel)
        self._run_ends = RunEnds(self.run_stub, self.caller, namespace)
        self.watcher = Watchers(self._run_ends)
        self.signals = Coalescer(self._send_signals, call_timeout)
        self.starts = Coalescer(self._send_starts, call_timeout)
        self.schedules = Schedules(self._channel, self.caller, namespace, converter)
        self.api_keys = ApiKeys(self._channel, self.caller)
        self.topics = Topics(self._channel, self.caller, namespace, converter)
        self.statistics = Statistics(self._channel, self.caller, namespace)
        self.user_tasks = UserTasks(self._channel, self.caller, namespace, converter)
        self.bulk = Bulk(self._channel, self.caller, namespace, converter)
        self.inbox = Inbox(self._channel, self.caller, namespace)
        self.retention = Retention(self._channel, self.caller, namespace)
        self.definitions = Definitions(self._channel, self.caller, namespace, converter)

    @classmethod
    async def connect(
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
        """Connects to the service.

        `api_key` is what to prove oneself with: a key or a token, or a function that gives one for each call, for those
        that are renewed (default: the variable STEPWELL_API_KEY, or what is in the file that STEPWELL_API_KEY_FILE
        names, read again when it changes).
        `tls` encrypts: with the files of a `Tls`, or with those that the environment names if it is `True` (default:
        if the environment names some, or STEPWELL_TLS is set there); `False` never does. `credentials` may be given in
        its place. `converter` makes payloads of values (default: JSON), `codec` changes their bytes (default: not).
        `connect_timeout` is how many seconds to wait for the service, 0 for not at all; `call_timeout` how many seconds
        a call is repeated while the service is away. Raises `Unavailable`, `CertificateError`.
        """
        client = cls(
            address,
            namespace=namespace,
            api_key=api_key,
            encryption=Encryption(credentials, tls),
            converter=converter_with(converter, codec),
            call_timeout=call_timeout,
        )
        if connect_timeout:
            try:
                await wait_ready(client._channel, address, connect_timeout)
            except BaseException:
                await client.close()
                raise
        return client

    async def close(self) -> None:
        """Closes the connection. Waits of this client are given up."""
        await self.watcher.close()
        await self.job_watcher.close()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Gives the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        await self.close()

    async def _send_signals(
        self, requests: list[runs_pb2.SignalRunRequest], traceparent: str
    ) -> list[runs_pb2.SignalRunResponse | errors.ServiceError]:
        batch = runs_pb2.BatchSignalRunsRequest(namespace=self.namespace, requests=requests)
        response = await self.caller.call(self.run_stub.BatchSignalRuns, batch, traceparent=traceparent)
        return [
            reasons.from_status(result.error) if result.HasField("error") else result.signalled
            for result in response.results
        ]

    def _handle(
        self, run_id: str, workflow_id: str, hint: object, *, started: bool, wait: Wait[RunEnd] | None = None
    ) -> RunHandle[Any]:
        return RunHandle(self, run_id, workflow_id, hint=hint, started=started, wait=wait)

    def run(self, run_id: str = "", *, workflow_id: str = "", as_type: type[T] | None = None) -> RunHandle[T]:
        """Gives a handle to a run that exists; asks nothing of the service. `as_type` is what its result becomes."""
        if bool(run_id) is bool(workflow_id):
            raise ValueError("name the run by run_id or by workflow_id")
        return RunHandle(self, uuid_of(run_id) if run_id else "", workflow_id, hint=as_type)

    async def list_runs(
        self, *, limit: int | None = None, **only: Unpack[RunFilter]
    ) -> AsyncGenerator[runs_pb2.Run, None]:
        """Lists runs, newest first, without their payloads; at most `limit`. Raises `InvalidField` for a `filter`."""
        request = runs_pb2.ListRunsRequest(
            namespace=self.namespace,
            phases=[RunPhase.Value(f"RUN_PHASE_{phase.upper()}") for phase in only.get("phases", ())],
            type=only.get("type", ""),
            workflow_id=only.get("workflow_id", ""),
            parent_run_id=only.get("parent_run_id", ""),
            task_queue=only.get("task_queue", ""),
            correlation_id=only.get("correlation_id", ""),
            definition=definition_of(only.get("definition")),
            filter=only.get("filter", ""),
            order_by=only.get("order_by", ""),
            page_size=PAGE_SIZE if limit is None else min(limit, PAGE_SIZE),
        )
        left = limit
        while left is None or left > 0:
            page = await self.caller.call(self.run_stub.ListRuns, request)
            for run in page.runs[:left]:
                yield run
            left = None if left is None else left - len(page.runs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def list_workers(self) -> AsyncGenerator[workers_pb2.Worker, None]:
        """Lists the namespace's live workers in the order of their registration."""
        request = workers_pb2.ListWorkersRequest(namespace=self.namespace, page_size=PAGE_SIZE)
        while True:
            page = await self.caller.call(self.worker_stub.ListWorkers, request)
            for worker in page.workers:
                yield worker
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def open_session(
        self,
        worker_id: str,
        *,
        task_queues: str | Collection[str] = "default",
        workflow_types: Collection[str] = (),
        activity_types: Collection[str] = (),
        build_id: str = "",
        compatible_build_ids: Collection[str] = (),
        identity: str = "",
    ) -> Session:
        """Begins to work without a stream, see `stepwell.sessions`: `async with await client.open_session(...)`.

        `worker_id` is the worker's own, stable name. Takes from the queues in their order, what is of these types. The
        builds are as `Worker`'s; `identity` is for people. Raises `InvalidField`, `NamespaceNotFound`.
        """
        hello = workers_pb2.Hello(
            namespace=self.namespace,
            worker_id=worker_id,
            task_queues=[task_queues] if isinstance(task_queues, str) else task_queues,
            workflow_types=workflow_types,
            activity_types=activity_types,
            build_id=build_id,
            compatible_build_ids=compatible_build_ids,
            identity=identity,
            sdk=SDK,
        )
        return await Session(self._channel, self.caller, self.namespace, self.converter, hello).open()

    async def list_task_queues(self) -> AsyncGenerator[task_queues_pb2.TaskQueue, None]:
        """Lists by name the queues in which something waits or from which a live worker takes."""
        request = task_queues_pb2.ListTaskQueuesRequest(namespace=self.namespace, page_size=PAGE_SIZE)
        while True:
            page = await self.caller.call(self.task_queue_stub.ListTaskQueues, request)
            for queue in page.task_queues:
                yield queue
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_task_queue(self, name: str) -> task_queues_pb2.GetTaskQueueResponse:
        """Reads what waits in a queue, sort by sort, and who could take it. Raises `InvalidField`."""
        request = task_queues_pb2.GetTaskQueueRequest(namespace=self.namespace, task_queue=name)
        return await self.caller.call(self.task_queue_stub.GetTaskQueue, request)

    async def update_task_queue(
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
        return await update_task_queue(
            self.caller, self.task_queue_stub, self.namespace, name, rate_limit, aging, fairness, key_rate_limit
        )

    def commit(self, *, request_id: str = "") -> Commit:
        """Begins a commit: writes that happen together or not at all, see `stepwell.commits`. Sends nothing yet.

        `request_id` makes a repeat of the whole safe for a day; by default only this object's own repeats are.
        """
        return Commit(self.send_commit, self.namespace, self.converter, request_id)

    async def send_commit(self, request: transactions_pb2.CommitRequest) -> transactions_pb2.CommitResponse:
        """Sends a commit that is made already. Raises `ServiceError`."""
        return await self.caller.call(self.transaction_stub.Commit, request, traceparent=_tracing.current_traceparent())

    @overload
    def watch_runs(self) -> AsyncGenerator[RunEnd, None]: ...

    @overload
    def watch_runs(self, *, starts: bool = ..., pauses: bool = ...) -> AsyncGenerator[RunEnd | RunNotice, None]: ...

    def watch_runs(self, *, starts: bool = False, pauses: bool = False) -> AsyncGenerator[Any, None]:
        """Follows the ends of the namespace's runs from now on, in the order of their commits, until it is left.

        With `starts` it also tells of starts, and of runs that had ended and go on; with `pauses` of pauses and
        resumptions: each is a `RunNotice`, with `news`, `time` and `reason`. It outlives interruptions and misses
        nothing meanwhile. Raises `ServiceError` when the service refuses for good.
        """
        if not starts and not pauses:
            return news(self._run_ends)
        wanted = [runs_pb2.RUN_NEWS_ENDED]
        wanted += [runs_pb2.RUN_NEWS_STARTED, runs_pb2.RUN_NEWS_REOPENED] if starts else []
        wanted += [runs_pb2.RUN_NEWS_PAUSED, runs_pb2.RUN_NEWS_RESUMED] if pauses else []
        return news(RunNews(self.run_stub, self.caller, self.namespace, wanted))

    def open_channel(self) -> grpc.aio.Channel:
        """Opens another channel to the same address, with a connection of its own. For workers."""
        return open_channel(self.address, self._encryption.credentials(), is_alone=True)
