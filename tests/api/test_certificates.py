"""Who calls over a connection with a certificate: over real TLS, with a CA made for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.api.keyed import Keyed, bearer, keyed, refused

from stepwell.v1 import api_keys_pb2, api_keys_pb2_grpc
from stepwell_server.api.interceptors.errors import Errors
from stepwell_server.api.methods import Methods
from stepwell_server.model.api_keys import Role
from stepwell_server.trust import CertificateRule

RULES = [
    CertificateRule(name="spiffe://prod/ns/orders/*", role="worker", task_queues=("mine",)),
    CertificateRule(name="ops.example.com", role="operator", namespace="-"),
    CertificateRule(name="reports", role="reader"),
]
MISSING = ("UNAUTHENTICATED", "API_KEY_MISSING")
NO_ROLE = ("PERMISSION_DENIED", "IDENTITY_WITHOUT_ROLE")


class Pair(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> tuple[bytes, bytes]:
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private, self.certificate.public_bytes(Encoding.PEM)


def signed(name: str, by: Pair | None, *alternatives: x509.GeneralName) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return Pair(builder.sign(by.key if by is not None else key, hashes.SHA256()), key)


CA = signed("ca", None)


@asynccontextmanager
async def over_tls(server: Keyed) -> AsyncIterator[Any]:
    """The server's own calls about keys once more, behind the same door, over TLS; answers a caller by certificate."""
    service = server.service
    interceptors = service._interceptors()
    methods = Methods([Errors(), *interceptors])
    servicer: Any = service._single_servicers()[1]
    api_keys_pb2_grpc.add_ApiKeyServiceServicer_to_server(servicer, methods)  # type: ignore[arg-type]
    own = signed("localhost", CA, x509.DNSName("localhost"))
    ca = CA.pem[1]
    credentials = grpc.ssl_server_credentials([own.pem], ca, require_client_auth=True)
    tls = grpc.aio.server(handlers=(methods,))
    port = tls.add_secure_port("127.0.0.1:0", credentials)
    await tls.start()

    async def asked(pair: Pair, key: str = "") -> Any:
        private, certificate = pair.pem
        credentials = grpc.ssl_channel_credentials(ca, private, certificate)
        options = (("grpc.ssl_target_name_override", "localhost"),)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
            stub: Any = api_keys_pb2_grpc.ApiKeyServiceStub(channel)
            return await stub.GetCaller(api_keys_pb2.GetCallerRequest(), metadata=bearer(key), timeout=60)

    try:
        yield asked
    finally:
        await tls.stop(0)


async def test_a_certificate_s_names_decide_what_it_opens(database_url: str) -> None:
    """By the first rule that one of them fits; none opens nothing."""
    async with keyed(database_url, certificate_rules=RULES) as server, over_tls(server) as asked:
        for pair, name, role, namespace, queues in (
            (
                signed("w", CA, x509.UniformResourceIdentifier("spiffe://prod/ns/orders/w1")),
                *("spiffe://prod/ns/orders/w1", Role.WORKER, "main", ["mine"]),
            ),
            (signed("x", CA, x509.DNSName("ops.example.com")), "ops.example.com", Role.OPERATOR, "-", []),
            (signed("reports", CA), "reports", Role.READER, "main", []),
        ):
            found = await asked(pair)
            assert (found.proof, found.name, found.role, found.namespace) == (3, name, role, namespace)
            assert list(found.task_queues) == queues
        assert await refused(asked(signed("reports.example.com", CA))) == NO_ROLE
        stranger = signed("w", CA, x509.UniformResourceIdentifier("spiffe://prod/ns/order"))
        assert await refused(asked(stranger)) == NO_ROLE


async def test_what_is_said_comes_before_what_is_there(database_url: str) -> None:
    """A key that is sent counts, also if it is wrong: then the certificate does not help."""
    async with keyed(database_url, certificate_rules=RULES) as server, over_tls(server) as asked:
        pair = signed("reports", CA)
        found = await asked(pair, server.admin)
        assert (found.proof, found.role) == (1, Role.ADMIN)
        assert await refused(asked(pair, "swk_" + "0" * 64)) == ("UNAUTHENTICATED", "API_KEY_UNKNOWN")
        assert await refused(asked(pair, "x")) == ("UNAUTHENTICATED", "API_KEY_MALFORMED")


async def test_without_rules_a_certificate_opens_nothing(database_url: str) -> None:
    async with keyed(database_url) as server, over_tls(server) as asked:
        assert await refused(asked(signed("reports", CA))) == MISSING
        assert (await asked(signed("reports", CA), server.admin)).role == Role.ADMIN


async def test_without_tls_there_is_no_certificate(database_url: str) -> None:
    async with keyed(database_url, certificate_rules=RULES) as server:
        assert await server.refused("GetCaller", "") == MISSING


@pytest.mark.parametrize("pair", [signed("reports", None), signed("reports", signed("ca", None))], ids=["own", "other"])
async def test_a_certificate_of_another_ca_opens_no_connection(database_url: str, pair: Pair) -> None:
    async with keyed(database_url, certificate_rules=RULES) as server, over_tls(server) as asked:
        assert (await refused(asked(pair)))[0] == "UNAVAILABLE"
