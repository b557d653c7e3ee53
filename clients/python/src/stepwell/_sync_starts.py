"""Starting runs without asyncio: the part of a client that is about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell import client, runs
    from stepwell.options import StartOptions
    from stepwell.sync import Loop, RunHandle

T = TypeVar("T")


class SyncStarts(ABC):
    """See the module. What it stands on is the client's."""

    _loop: Loop
    _inner: client.Client

    @abstractmethod
    def _handle(self, run: runs.RunHandle[T]) -> RunHandle[T]: ...

    @overload
    def start_run(
        self,
        workflow: Callable[..., Awaitable[T]],
        input: object = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[T]: ...
    @overload
    def start_run(self, workflow: str, input: object = ..., **options: Unpack[StartOptions]) -> RunHandle[Any]: ...
    def start_run(
        self,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]:
        """Starts a run, as `stepwell.Client.start_run`, and gives a handle to it."""
        return self._handle(self._loop.call(self._inner.start_run(workflow, input, **options)))

    @overload
    def signal_with_start(
        self,
        workflow: Callable[..., Awaitable[T]],
        input: object = ...,
        *,
        signal: str,
        value: object = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[T]: ...
    @overload
    def signal_with_start(
        self,
        workflow: str,
        input: object = ...,
        *,
        signal: str,
        value: object = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]: ...
    def signal_with_start(
        self,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        *,
        signal: str,
        value: object = None,
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]:
        """Signals the open run of a workflow id, or starts it first, as `stepwell.Client.signal_with_start`."""
        call = self._inner.signal_with_start(workflow, input, signal=signal, value=value, **options)
        return self._handle(self._loop.call(call))
