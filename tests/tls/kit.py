"""Servers with certificates, and what a new connection to them sees."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.certificates import Authority, Pair

from stepwell_server.api.server import Server, build_server
from stepwell_server.settings import Settings

SECONDS = 30.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Secret:
    """A folder as Kubernetes mounts secrets: what is in it changes all at once, by one symbolic link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / name).symlink_to(f"..data/{name}")

    def put(self, pair: Pair, ca: bytes = b"") -> None:
        """Exchanges what is there."""
        self._count += 1
        data = self._folder / f"..data_{self._count}"
        data.mkdir()
        pair.write(data)
        if ca:
            (data / "ca.crt").write_bytes(ca)
        link = self._folder / "..data_tmp"
        link.symlink_to(data.name)
        link.replace(self._folder / "..data")

    def settings(self, *, with_clients: bool = False, **more: Any) -> dict[str, Any]:
        """What names the files."""
        own = {
            "tls_certificate_file": self._folder / "tls.crt",
            "tls_key_file": self._folder / "tls.key",
            "tls_client_ca_file": self._folder / "ca.crt" if with_clients else None,
        }
        return {**own, **more}


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Server]:
    """A server that has nothing but health and reflection to tell, and needs no database."""
    server = build_server(Settings(**{"port": 0, "shutdown_seconds": 1.0, **settings}), [])
    await server.start()
    await server.ready()
    try:
        yield server
    finally:
        await server.stop()
        await server.close()


def channel_to(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel whose connection is its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


async def asked(address: str, credentials: grpc.ChannelCredentials | None = None, service: str = "") -> int:
    """What health says over a new connection."""
    async with channel_to(address, credentials) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int((await health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)).status)


async def refusal(address: str, credentials: grpc.ChannelCredentials | None = None) -> str:
    """How gRPC tells that there is no connection."""
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE") as raised:
        await asked(address, credentials)
    return str(raised.value.details())


async def serial(address: str, **versions: ssl.TLSVersion) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    for name, version in versions.items():
        setattr(context, name, version)
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(shown).serial_number


def secret_in(folder: Path, authority: Authority) -> tuple[Secret, Pair]:
    """A mounted secret with a certificate of an authority's, and its CA for clients."""
    secret, pair = Secret(folder), authority.issue()
    secret.put(pair, authority.certificate)
    return secret, pair
