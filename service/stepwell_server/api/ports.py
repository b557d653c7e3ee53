"""Addresses, and servers bound to them."""

from __future__ import annotations

import grpc
import grpc.aio


def address_of(host: str, port: int) -> str:
    """A host and a port, as gRPC takes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    """Binds an address, in the clear without credentials, and answers the port. Raises RuntimeError if it can't."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise RuntimeError(f"{address} can't be bound: is another server using the port? ({error})") from error
