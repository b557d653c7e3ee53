"""The same change for many runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from stepwell._rpc import uuid7
from stepwell.v1 import bulk_pb2
from stepwell.v1.bulk_pb2_grpc import BulkServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller
    from stepwell.converter import DataConverter

Part = bulk_pb2.ApplyToRunsResponse
_PAGE_SIZE = 500


class Bulk:
    """What steers all runs that a filter finds, newest first; `client.bulk`.

    Each method gives what became of a part of them at a time: `matched_count`, `changed_count`, `unchanged_count`, and
    `refusals` by reason. `filter` is as in `list_runs`, and required; with `dry_run` (default: not) nothing is changed.
    All raise `InvalidField`, `NamespaceNotFound`.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str, converter: DataConverter) -> None:
        """Made by the client."""
        self._stub = BulkServiceStub(channel)
        self._caller = caller
        self._namespace = namespace
        self._converter = converter

    def cancel(self, filter: str, *, reason: str = "", dry_run: bool = False) -> AsyncGenerator[Part, None]:  # noqa: A002 - the protocol's word
        """Asks open runs to cancel."""
        return self._apply(filter, dry_run, cancel=bulk_pb2.ApplyToRunsRequest.Cancel(reason=reason))

    def terminate(self, filter: str, *, reason: str = "", dry_run: bool = False) -> AsyncGenerator[Part, None]:  # noqa: A002 - likewise
        """Ends open runs at once."""
        return self._apply(filter, dry_run, terminate=bulk_pb2.ApplyToRunsRequest.Terminate(reason=reason))

    def pause(self, filter: str, *, reason: str = "", dry_run: bool = False) -> AsyncGenerator[Part, None]:  # noqa: A002 - likewise
        """Stops work on open runs."""
        return self._apply(filter, dry_run, pause=bulk_pb2.ApplyToRunsRequest.Pause(reason=reason))

    def resume(
        self,
        filter: str,  # noqa: A002 - likewise
        *,
        accept_order: bool = False,
        dry_run: bool = False,
    ) -> AsyncGenerator[Part, None]:
        """Lets paused runs go on; `accept_order` is for those that paused because their code was changed."""
        return self._apply(filter, dry_run, resume=bulk_pb2.ApplyToRunsRequest.Resume(accept_order=accept_order))

    def signal(
        self,
        filter: str,  # noqa: A002 - likewise
        name: str,
        value: object = None,
        *,
        dry_run: bool = False,
    ) -> AsyncGenerator[Part, None]:
        """Sends open runs a signal, each once."""
        payload = self._converter.to_payload(value)
        return self._apply(
            filter, dry_run, signal=bulk_pb2.ApplyToRunsRequest.Signal(signal_name=name, payload=payload)
        )

    def retry(self, filter: str, *, reason: str = "", dry_run: bool = False) -> AsyncGenerator[Part, None]:  # noqa: A002 - likewise
        """Lets runs that ended badly go on from their record."""
        return self._apply(filter, dry_run, retry=bulk_pb2.ApplyToRunsRequest.Retry(reason=reason))

    async def _apply(self, where: str, dry_run: bool, **operation: Any) -> AsyncGenerator[Part, None]:  # noqa: ANN401, FBT001 - one of the messages
        request = bulk_pb2.ApplyToRunsRequest(
            namespace=self._namespace,
            filter=where,
            dry_run=dry_run,
            page_size=_PAGE_SIZE,
            request_id=uuid7(),
            **operation,
        )
        while True:
            part = await self._caller.call(self._stub.ApplyToRuns, request)
            yield part
            if not part.next_page_token:
                return
            request.page_token = part.next_page_token
