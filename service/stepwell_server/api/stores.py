"""What the servicers of the mirrored stores share: which run is meant, commands for one run, and for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import grpc.aio
from google.protobuf.message import Message

from stepwell.v1 import runs_pb2
from stepwell_server import errors
from stepwell_server.api.fields import Fields, time
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_starts import size_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, RunRefs, each, run_to_proto, whole_run_to_proto
from stepwell_server.errors import InvalidField
from stepwell_server.ids import unpack
from stepwell_server.model.runs import RunRef
from stepwell_server.store import driven, run_origins, runs, search_attributes, whole_runs

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from datetime import datetime

    from stepwell_server.api.run_values import NamesRun
    from stepwell_server.clock import Clock
    from stepwell_server.engine.commands import Command
    from stepwell_server.engine.committer import Committers
    from stepwell_server.model.driven import RunOrigin
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

Answer = TypeVar("Answer")
Key = TypeVar("Key")
# In each round that brought nothing somebody else was served.
_MOST_ROUNDS = 256


class StoreCalls:
    """The base of those servicers."""

    _earlier: Sequence[Message] = ()
    """The requests that come before this one in a commit."""

    def __init__(
        self, committers: Committers, database: Database, namespaces: Namespaces, clock: Clock, settings: Settings
    ) -> None:
        self._committers = committers
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._fields = Fields(settings.limits)
        self._refs = RunRefs(self._fields, namespaces)

    async def _seek(self, request: NamesRun) -> runs.SeenRun | None:
        """The run that a request is about, or None."""
        return await runs.seek(self._database, await self._refs.read(request))

    async def _do(
        self,
        kind: type[Answer],
        command: Command,
        request: Message,
        answer_type: Any = None,  # noqa: ANN401 - a type with its parameters, where `kind` has none
    ) -> Answer:
        """Gives a command and waits for its answer; that of a repeat is the one that the request had before."""
        asked = asked_of(request, command.ref.namespace_id, answer_type or kind, self._fields)
        return await self._committers.do(kind, command, size_of(request), remaining(), asked)

    async def _space(self, request: Any) -> RunRef:  # noqa: ANN401 - any request that names a namespace
        """The namespace of a request about many runs, as what all references into it begin with."""
        namespace = self._fields.namespace(request.namespace)
        return RunRef(await self._namespaces.id_of(namespace), namespace)

    async def _numbered(self, request: Any, number: int, field: str) -> tuple[RunRef, int]:  # noqa: ANN401
        """The run and the ordinal of the step with that number; in any namespace for `-`."""
        namespace = self._fields.any_namespace(request.namespace)
        namespace_id = None if namespace is None else await self._namespaces.id_of(namespace)
        if number <= 0:
            raise InvalidField(field=field, problem="is required: a number as it was given out")
        run_key, ordinal = unpack(number)
        return RunRef(namespace_id, namespace or "-", run_key=run_key), ordinal

    def _now(self, request: Any) -> datetime:  # noqa: ANN401 - any request with a `now`
        """The caller's time, or else the service's."""
        return time(request, "now") or self._clock.now()

    def _limit(self, asked: int) -> int:
        """How many runs one call may change."""
        at_most = self._fields.limits.set_runs
        if not 0 <= asked <= at_most:
            raise InvalidField(field="limit", problem=f"is {asked}: it must be 0 (the default) to {at_most}")
        return asked or at_most

    async def _take(
        self,
        kind: type[Answer],
        limit: int,
        choose: Callable[[Collection[int], int], Awaitable[Sequence[int]]],
        order: Callable[[int], Command],
        size: int = 0,
    ) -> list[tuple[int, Answer]]:
        """Chooses runs by key and gives each a command, until something came of enough of them.

        `choose` is told which have been tried and how many are wanted. Others may choose the same at the same time: a
        run is whose command came first, and the others choose again. Answers keys with what came of them.
        """

        def submit(place: int, key: int) -> asyncio.Future[object]:
            del place
            return self._committers.submit(order(key), size, remaining())

        taken: list[tuple[int, Answer]] = []
        tried: set[int] = set()
        for _ in range(_MOST_ROUNDS):
            keys = await choose(tried, limit - len(taken)) if len(taken) < limit else ()
            if not keys:
                break
            tried.update(keys)
            answers = await each(keys, submit)
            taken += [
                (key, answer) for key, answer in zip(keys, answers, strict=True) if isinstance(answer, kind) and answer
            ]
            failed = [answer for answer in answers if _is_failure(answer)]
            if failed and not taken:
                raise failed[0]
        return taken

    async def _take_all(
        self,
        choose: Callable[[Collection[Key], int], Awaitable[Sequence[Key]]],
        order: Callable[[Key], Command],
    ) -> int:
        """The same until nothing is left. Answers how many came to something; raises what stood in the way."""

        def submit(place: int, key: Key) -> asyncio.Future[object]:
            del place
            return self._committers.submit(order(key), seconds=remaining())

        came, tried = 0, set[Key]()
        while keys := await choose(tried, self._fields.limits.set_runs):
            tried.update(keys)
            answers = await each(keys, submit)
            for answer in answers:
                if isinstance(answer, Exception) and not isinstance(answer, errors.RunNotFound):
                    raise answer
            came += sum(answer is True for answer in answers)
        return came

    async def _whole(self, ref: RunRef, data_names: Sequence[str] = ()) -> runs_pb2.Run:
        """A run with its payloads, and with data of its own."""
        whole = await runs.read(self._database, ref)
        whole = await whole_runs.with_data(self._database, whole, data_names, self._message_room)
        shown = whole_run_to_proto(whole, await self._namespaces.name_of(whole.run.namespace_id))
        await self._show_origins([whole.run], [shown])
        return shown

    @property
    def _message_room(self) -> int:
        return self._fields.limits.message_bytes - MESSAGE_MARGIN

    async def _listed(
        self, shown: Sequence[runs.SeenRun], namespace: str, *, payloads: bool, data_names: Sequence[str] = ()
    ) -> list[runs_pb2.Run]:
        """Runs with their cursors; with their payloads, and data, only as many as fit a message."""
        if payloads:
            wholes = await whole_runs.fitting(self._database, shown, self._message_room, data_names)
            told = [whole_run_to_proto(whole, namespace) for whole in wholes]
            await self._show_origins(shown[: len(told)], told)
            return told
        cursors = await driven.cursors(self._database, [run.run_key for run in shown])
        attributes = await search_attributes.of_runs(self._database, shown)
        rendered = [run_to_proto(run, namespace, attributes.get(run.run_key)) for run in shown]
        for run, message in zip(shown, rendered, strict=True):
            message.cursor = cursors.get(run.run_key, 0)
        await self._show_origins(shown, rendered)
        return rendered

    async def _show_origins(self, seen: Sequence[runs.SeenRun], shown: Sequence[runs_pb2.Run]) -> None:
        """Adds to driven runs what set them off."""
        origins = await run_origins.read(self._database, [run.run_key for run in seen if run.driven])
        for run, message in zip(seen, shown, strict=True):
            if (origin := origins.get(run.run_key)) is not None:
                message.origin.CopyFrom(origin_to_proto(origin))


def origin_to_proto(origin: RunOrigin) -> runs_pb2.Run.Origin:
    """Renders what set a run off."""
    return runs_pb2.Run.Origin(
        title=origin.title, trigger_key=origin.trigger_key, idempotency_key=origin.idempotency_key
    )


def within(space: RunRef, run_key: int) -> RunRef:
    """A run of a namespace."""
    return RunRef(space.namespace_id, space.namespace, run_key=run_key)


def _is_failure(answer: object) -> TypeGuard[Exception]:
    """Whether a command failed for another reason than that its run is gone, or in other hands."""
    return isinstance(answer, Exception) and not isinstance(answer, errors.RunNotFound | errors.RunBusy)
