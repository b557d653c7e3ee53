"""The server's certificate: refused at the start if it does not suit, exchanged while the server runs if it does."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from structlog.testing import capture_logs
from tests.certificates import Authority, Pair
from tests.tls.kit import NOT_SERVING, SERVING, Secret, asked, channel_to, refusal, secret_in, serial, serving

from stepwell_server.api import certificates as certificates_module
from stepwell_server.api.certificates import CertificateError, Certificates
from stepwell_server.settings import Settings
from stepwell_server.telemetry.metrics import registry

Spoil = Callable[[Authority, Pair], Pair]


def _locked(authority: Authority, pair: Pair) -> Pair:
    key = serialization.load_pem_private_key(pair.key, None)
    pair.key = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"pass phrase"),
    )
    return pair


def _with(**parts: bytes) -> Spoil:
    def spoil(authority: Authority, pair: Pair) -> Pair:
        for name, content in parts.items():
            setattr(pair, name, content)
        return pair

    return spoil


def _foreign(authority: Authority, pair: Pair) -> Pair:
    pair.key = authority.issue().key
    return pair


def _of(make: Callable[[], Any]) -> Spoil:
    return lambda authority, _: authority.issue(key=make())


BAD: dict[str, tuple[Spoil, str]] = {
    "no certificate": (_with(certificate=b"nonsense"), "STEPWELL_TLS_CERTIFICATE_FILE: the file holds no certificate"),
    "a broken one": (
        _with(certificate=b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
        "STEPWELL_TLS_CERTIFICATE_FILE: the file holds no certificate",
    ),
    "no key": (_with(key=b"nonsense"), "STEPWELL_TLS_KEY_FILE: the file holds no private key"),
    "another's key": (_foreign, "STEPWELL_TLS_KEY_FILE does not belong to the first certificate in STEPWELL_TLS_"),
    "a pass phrase": (_locked, "STEPWELL_TLS_KEY_FILE: the key must not need a pass phrase"),
    "ended": (
        lambda authority, _: authority.issue(lasts=dt.timedelta(seconds=-1)),
        "STEPWELL_TLS_CERTIFICATE_FILE: the certificate ended at 20",
    ),
    "a small key": (
        _of(lambda: rsa.generate_private_key(65_537, 1_024)),  # noqa: S505 - the point
        "STEPWELL_TLS_CERTIFICATE_FILE: the key must be RSA of 2048",
    ),
    "another curve": (
        _of(lambda: ec.generate_private_key(ec.SECP521R1())),
        "STEPWELL_TLS_CERTIFICATE_FILE: the key must be RSA of 2048",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_server_does_not_start_on_what_does_not_suit(name: str, tmp_path: Path) -> None:
    """It says which setting is wrong, and nothing of what the file holds."""
    spoil, told = BAD[name]
    authority, secret = Authority(), Secret(tmp_path)
    pair = spoil(authority, authority.issue())
    secret.put(pair)
    with pytest.raises(CertificateError) as raised:
        Certificates(Settings(**secret.settings()))
    assert str(raised.value).startswith(told)
    held = {line for line in (pair.key + b"\n" + pair.certificate).decode().split() if len(line) > 10}
    assert not [line for line in held if line in str(raised.value)]


async def test_a_ca_that_is_none_is_refused(tmp_path: Path) -> None:
    authority, secret = Authority(), Secret(tmp_path)
    secret.put(authority.issue(), b"nonsense")
    with pytest.raises(CertificateError, match=r"^STEPWELL_TLS_CLIENT_CA_FILE: the file holds no CA certificate"):
        Certificates(Settings(**secret.settings(with_clients=True)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    secret, _ = secret_in(tmp_path, Authority())
    settings = secret.settings(tls_key_file=tmp_path / "other.key")
    with pytest.raises(CertificateError, match=r"^STEPWELL_TLS_KEY_FILE: .*other.key can't be read: No such file"):
        Certificates(Settings(**settings))


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65_537, 2_048),
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["RSA", "P-256", "P-384"],
)
async def test_keys_that_are_taken_do(make: Callable[[], Any], tmp_path: Path) -> None:
    """What is let through at the start is also what gRPC and its clients can use."""
    authority, secret = Authority(), Secret(tmp_path)
    secret.put(authority.issue(key=make()))
    async with serving(**secret.settings()) as server:
        assert await asked(server.addresses["address"], authority.credentials()) == SERVING


async def test_a_new_certificate_is_shown_and_connections_live_on(tmp_path: Path) -> None:
    """One that was open before goes on; one that is opened afterwards sees the new one."""
    authority = Authority()
    secret, first = secret_in(tmp_path, authority)
    async with serving(**secret.settings()) as server:
        address = server.addresses["address"]
        assert server.certificates is not None
        assert await serial(address) == first.serial
        async with channel_to(address, authority.credentials()) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            second = authority.issue(lasts=dt.timedelta(days=9))
            secret.put(second, authority.certificate)
            assert server.certificates.look()
            assert await serial(address) == second.serial
            assert not server.certificates.look()
            await server.ready(is_ready=False)
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
        end = registry.get_sample_value("stepwell_certificate_expiry_seconds")
        assert end is not None
        assert abs(end - time.time() - 9 * 86_400) < 600


@pytest.mark.parametrize("name", BAD)
async def test_what_does_not_suit_leaves_the_one_before(name: str, tmp_path: Path) -> None:
    """It is told once; and as soon as the files suit, they count."""
    spoil, told = BAD[name]
    authority = Authority()
    secret, first = secret_in(tmp_path, authority)
    async with serving(**secret.settings(with_clients=True)) as server:
        address, certificates = server.addresses["address"], server.certificates
        assert certificates is not None
        secret.put(spoil(authority, authority.issue()), authority.certificate)
        with capture_logs() as logs:
            assert not certificates.look()
            assert not certificates.look()
        (line,) = [each for each in logs if each["log_level"] == "warning"]
        assert line["event"] == "certificate not reloaded"
        assert line["cause"].startswith(told)
        assert await serial(address) == first.serial
        third = authority.issue()
        secret.put(third, authority.certificate)
        assert certificates.look()
        assert await serial(address) == third.serial


async def test_what_is_exchanged_between_two_reads_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate from before and a key from after are no reason to warn."""
    authority = Authority()
    secret, _ = secret_in(tmp_path, authority)
    second = authority.issue()
    read = certificates_module._content
    reads = 0

    def content(setting: str, path: Path | None) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 2:
            secret.put(second, authority.certificate)
        return read(setting, path)

    async with serving(**secret.settings()) as server:
        assert server.certificates is not None
        monkeypatch.setattr(certificates_module, "_content", content)
        with capture_logs() as logs:
            assert server.certificates.look()
        assert [each["event"] for each in logs] == ["certificate reloaded"]
        assert await serial(server.addresses["address"]) == second.serial


async def test_other_cas_count_for_the_next_connection(tmp_path: Path) -> None:
    """A client whose CA was exchanged is refused, one of the new CA is let in, and who was in stays."""
    authority, other = Authority("one"), Authority("other")
    secret, own = secret_in(tmp_path, authority)
    async with serving(**secret.settings(with_clients=True)) as server:
        address = server.addresses["address"]
        assert server.certificates is not None
        old, new = authority.issue(["worker.example"]), other.issue(["worker.example"])
        shows_new = _trusting(authority, new)
        assert await asked(address, authority.credentials(old)) == SERVING
        await refusal(address, shows_new)
        async with channel_to(address, authority.credentials(old)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
            secret.put(own, other.certificate)
            assert server.certificates.look()
            assert await asked(address, shows_new) == SERVING
            await refusal(address, authority.credentials(old))
            assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=30)).status == SERVING


def _trusting(authority: Authority, pair: Pair) -> grpc.ChannelCredentials:
    """A client's credentials whose own certificate somebody else has signed."""
    return grpc.ssl_channel_credentials(authority.certificate, pair.key, pair.certificate)


async def test_certificates_are_exchanged_under_a_load_of_handshakes(tmp_path: Path) -> None:
    """The threads of gRPC ask for the certificate while the loop is busy: nobody waits for another for ever."""
    authority = Authority()
    secret, _ = secret_in(tmp_path, authority)
    async with serving(**secret.settings(with_clients=True)) as server:
        address, certificates = server.addresses["address"], server.certificates
        assert certificates is not None
        pair = authority.issue(["worker.example"])
        for _ in range(10):
            secret.put(authority.issue(), authority.certificate)
            asking = [asyncio.create_task(asked(address, authority.credentials(pair))) for _ in range(20)]
            while not all(task.done() for task in asking):
                sum(range(20_000))
                await asyncio.to_thread(certificates.look)
            assert {task.result() for task in asking} == {SERVING}


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    secret, own = secret_in(tmp_path, Authority())
    async with serving(**secret.settings()) as server:
        address = server.addresses["address"]
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await serial(address, minimum_version=version, maximum_version=version) == own.serial
        old = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises((ssl.SSLError, ConnectionError)):
            await serial(address, minimum_version=old, maximum_version=old)


def test_ed25519_is_refused(tmp_path: Path) -> None:
    """Clients on gRPC's own TLS would not take it."""
    authority, secret = Authority(), Secret(tmp_path)
    secret.put(authority.issue(key=ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(CertificateError, match="must be RSA"):
        Certificates(Settings(**secret.settings()))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tls_certificate_file": "c"}, "STEPWELL_TLS_CERTIFICATE_FILE and STEPWELL_TLS_KEY_FILE go together"),
        ({"tls_key_file": "k"}, "STEPWELL_TLS_CERTIFICATE_FILE and STEPWELL_TLS_KEY_FILE go together"),
        ({"tls_client_ca_file": "ca"}, "STEPWELL_TLS_CLIENT_CA_FILE needs STEPWELL_TLS_CERTIFICATE_FILE"),
        (
            {"tls_certificate_file": "c", "tls_key_file": "k", "tls_client_certificates": "optional"},
            "STEPWELL_TLS_CLIENT_CERTIFICATES=optional needs STEPWELL_TLS_CLIENT_CA_FILE",
        ),
    ],
)
def test_half_of_the_settings_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings(**settings)


async def test_with_optional_a_second_port_asks_for_certificates(tmp_path: Path) -> None:
    authority = Authority()
    secret, _ = secret_in(tmp_path, authority)
    settings = secret.settings(with_clients=True, tls_client_certificates="optional", tls_client_port=0)
    async with serving(**settings) as server:
        address, client_address = server.addresses["address"], server.addresses["client_address"]
        assert await asked(address, authority.credentials()) == SERVING
        await refusal(client_address, authority.credentials())
        assert await asked(client_address, authority.credentials(authority.issue(["worker.example"]))) == SERVING
        assert server.certificates is not None
        second = authority.issue()
        secret.put(second, authority.certificate)
        assert server.certificates.look()
        assert await serial(address) == second.serial
        assert await serial(client_address) == second.serial
        assert await asked(client_address, authority.credentials(authority.issue(["worker.example"]))) == SERVING
