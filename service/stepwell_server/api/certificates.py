"""The server's certificate and key, and whose certificates it takes: read from files, and read again while it runs.

gRPC asks `fetch` before every handshake, on a thread of its own, and so it but hands over what `look` has made ready.
A connection that stands is left alone; the next one meets what the files held at the last look. Files that do not suit
change nothing. What is said of them names settings and paths, never what is in them.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from stepwell_server import telemetry

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificatePublicKeyTypes,
        PrivateKeyTypes,
        PublicKeyTypes,
    )

    from stepwell_server.settings import Settings

_CERTIFICATE, _KEY = "STEPWELL_TLS_CERTIFICATE_FILE", "STEPWELL_TLS_KEY_FILE"
_CLIENT_CA = "STEPWELL_TLS_CLIENT_CA_FILE"
_CURVES = ("secp256r1", "secp384r1")
_RSA_BITS = 2_048
# A volume of Kubernetes is exchanged as a whole: what was read from both sides of that is read again.
_READS = 5

_log = structlog.get_logger("stepwell.certificates")


class CertificateError(Exception):
    """The files do not suit; the message says which, and why."""


class _Files(NamedTuple):
    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """See the module. Raises CertificateError if what the settings name can't be used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files = self._read()
        self._leaf = _checked(self._files)
        self._refused: tuple[_Files | None, str] = (None, "")
        # Taken by gRPC's threads, and so exchanged as one.
        self._ready = (0, _configuration(self._files))
        self._tell("certificate in use")

    def credentials(self, *, with_clients: bool) -> grpc.ServerCredentials:
        """Credentials for one port; `with_clients` if clients there must show a certificate."""
        given, initial = self._ready

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            number, configuration = self._ready
            if number == given:
                return None
            given = number
            return configuration

        # Its types know nothing of None, which leaves things as they are.
        return grpc.dynamic_ssl_server_credentials(initial, fetch, with_clients)  # type: ignore[arg-type]

    def look(self) -> bool:
        """Reads the files again; whether they have changed and suit. Blocks."""
        files = None
        try:
            files = self._read()
            if files == self._files:
                self._refused = (None, "")
                return False
            leaf = _checked(files)
        except CertificateError as error:
            self._refuse(files, str(error))
            return False
        self._files, self._leaf, self._refused = files, leaf, (None, "")
        self._ready = (self._ready[0] + 1, _configuration(files))
        self._tell("certificate reloaded")
        return True

    def _refuse(self, files: _Files | None, cause: str) -> None:
        """Once for each thing that is wrong."""
        if (files, cause) != self._refused:
            self._refused = (files, cause)
            _log.warning("certificate not reloaded", cause=cause, advice="the one before stays in use")

    def _tell(self, event: str) -> None:
        end = self._leaf.not_valid_after_utc
        telemetry.set_certificate_expiry(end.timestamp())
        _log.info(event, serial=f"{self._leaf.serial_number:x}", expires=end.isoformat())

    def _read(self) -> _Files:
        files = self._read_once()
        for _ in range(_READS):
            again = self._read_once()
            if again == files:
                break
            files = again
        return files

    def _read_once(self) -> _Files:
        settings = self._settings
        client_ca = settings.tls_client_ca_file
        return _Files(
            _content(_CERTIFICATE, settings.tls_certificate_file),
            _content(_KEY, settings.tls_key_file),
            None if client_ca is None else _content(_CLIENT_CA, client_ca),
        )


def _content(setting: str, path: Path | None) -> bytes:
    if path is None:
        raise CertificateError(f"{setting} is not set")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{setting}: {path} can't be read: {error.strerror}") from None


def _checked(files: _Files) -> x509.Certificate:
    """The server's own certificate, if all three files suit each other and gRPC."""
    leaf = _parsed(_CERTIFICATE, "certificate", files.certificate)
    if leaf.not_valid_after_utc <= dt.datetime.now(dt.UTC):
        raise CertificateError(f"{_CERTIFICATE}: the certificate ended at {leaf.not_valid_after_utc.isoformat()}")
    public = leaf.public_key()
    _refuse_kind(public)
    if _spelled(_private_key(files.key).public_key()) != _spelled(public):
        raise CertificateError(
            f"{_KEY} does not belong to the first certificate in {_CERTIFICATE}, which must be the server's own"
        )
    if files.client_ca is not None:
        _parsed(_CLIENT_CA, "CA certificate", files.client_ca)
    return leaf


def _parsed(setting: str, noun: str, content: bytes) -> x509.Certificate:
    """The first of a file's certificates."""
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{setting}: the file holds no {noun} in PEM, or one that can't be read") from None


def _private_key(content: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError:
        raise CertificateError(f"{_KEY}: the key must not need a pass phrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{_KEY}: the file holds no private key in PEM") from None


def _refuse_kind(key: CertificatePublicKeyTypes) -> None:
    """What gRPC takes, and its clients do; it would say no more than that the port can't be bound."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS:
        return
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return
    raise CertificateError(
        f"{_CERTIFICATE}: the key must be RSA of {_RSA_BITS} bits or more, or ECDSA on P-256 or P-384"
    )


def _spelled(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _configuration(files: _Files) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.client_ca)
