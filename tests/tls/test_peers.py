"""Whose certificate a connection was opened with, as a call sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.certificates import Authority

from stepwell_server.api.interceptors.around import Context
from stepwell_server.api.peers import certificate_names


class _Asked(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Notes who calls."""

    def __init__(self) -> None:
        self.names: list[tuple[str, ...]] = []

    async def Check(self, request: object, context: Context) -> object:
        self.names.append(certificate_names(context))
        return health_pb2.HealthCheckResponse()


@asynccontextmanager
async def _asked(
    server_credentials: grpc.ServerCredentials | None, client: grpc.ChannelCredentials | None
) -> AsyncIterator[_Asked]:
    """A server that was called once."""
    server, servicer = grpc.aio.server(), _Asked()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if server_credentials is None or client is None:
        port = server.add_insecure_port("127.0.0.1:0")
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port("127.0.0.1:0", server_credentials)
        channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", client)
    await server.start()
    try:
        async with channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            yield servicer
    finally:
        await server.stop(0)


@pytest.mark.parametrize(
    ("names", "common_name", "expected"),
    [
        (
            ("worker.example", "spiffe://example/ns/a/sa/worker", "10.0.0.7", "spiffe://example/other"),
            "worker",
            ("spiffe://example/ns/a/sa/worker", "spiffe://example/other", "worker.example", "worker"),
        ),
        (("orders.example",), "orders.example", ("orders.example",)),
        ((), "orders", ("orders",)),
        (("orders.example",), "", ("orders.example",)),
        (("orders.example",), "spiffe://example/admin", ("orders.example",)),
        (("10.0.0.7",), "", ()),
    ],
    ids=["all", "once", "common name alone", "DNS alone", "a common name like a URI", "an address"],
)
async def test_names_are_those_that_the_authority_signed(
    names: Sequence[str], common_name: str, expected: tuple[str, ...]
) -> None:
    """URIs come first, and no common name can pass for one."""
    authority = Authority()
    own = authority.issue()
    server = grpc.ssl_server_credentials([(own.key, own.certificate)], authority.certificate, require_client_auth=True)
    client = authority.credentials(authority.issue(names, common_name))
    async with _asked(server, client) as asked:
        assert asked.names == [expected]


async def test_without_a_certificate_there_is_no_name() -> None:
    """Over TLS where none is asked for, though one is offered; and in the clear."""
    authority = Authority()
    own = authority.issue()
    server = grpc.ssl_server_credentials([(own.key, own.certificate)])
    async with _asked(server, authority.credentials(authority.issue(("worker.example",)))) as asked:
        assert asked.names == [()]
    async with _asked(None, None) as asked:
        assert asked.names == [()]
