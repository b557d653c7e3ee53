"""Encryption of a client's connections: whom it trusts, and what it shows."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from stepwell.errors import CertificateError

_ON = frozenset({"1", "true", "t", "yes", "y", "on"})
_CA, _CERTIFICATE, _KEY = (
    "STEPWELL_TLS_CA_FILE",
    "STEPWELL_TLS_CLIENT_CERTIFICATE_FILE",
    "STEPWELL_TLS_CLIENT_KEY_FILE",
)

log = logging.getLogger("stepwell")


@dataclass(frozen=True)
class Tls:
    """TLS with files in PEM.

    `ca_file` holds the CAs to trust (default: those that gRPC brings along). `certificate_file` and `key_file` are the
    client's own, for a service that asks for one (default: none); the key must not need a pass phrase. Raises
    `CertificateError` if one of these two is given without the other.
    """

    ca_file: str | os.PathLike[str] | None = None
    certificate_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Refuses half a pair."""
        if (self.certificate_file is None) != (self.key_file is None):
            raise CertificateError(
                f"a client's certificate and its key go together: give both or neither ({_CERTIFICATE}, {_KEY})"
            )

    @classmethod
    def from_environment(cls) -> Self:
        """The files that STEPWELL_TLS_CA_FILE, _CLIENT_CERTIFICATE_FILE and _CLIENT_KEY_FILE name."""
        ca, certificate, key = (os.environ.get(name) or None for name in (_CA, _CERTIFICATE, _KEY))
        return cls(ca, certificate, key)

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises `CertificateError` if one can't be used."""
        ca = None if self.ca_file is None else _content(self.ca_file)
        if ca is not None:
            _check_ca(self.ca_file, ca)
        if self.certificate_file is None or self.key_file is None:
            return grpc.ssl_channel_credentials(ca)
        certificate, key = _content(self.certificate_file), _content(self.key_file)
        _check_pair(self.certificate_file, self.key_file)
        return grpc.ssl_channel_credentials(ca, key, certificate)


class Encryption:
    """What each connection of one client is opened with: `tls` as `Client.connect` takes it, or ready credentials."""

    def __init__(self, credentials: grpc.ChannelCredentials | None, tls: Tls | bool | None) -> None:  # noqa: FBT001 - as it comes
        """Asks the environment where nothing is said. Raises `CertificateError`, `TypeError` for both."""
        if credentials is not None and tls is not None:
            raise TypeError("give either credentials or tls")
        self._latest = credentials
        self._tls = None if credentials is not None else _asked(tls)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """The credentials, `None` for none. Files are read anew: what issues certificates exchanges them.

        If they can't be used any more, what they were before goes on. Raises `CertificateError` the first time.
        """
        if self._tls is None:
            return self._latest
        try:
            self._latest = self._tls.credentials()
        except CertificateError as error:
            if self._latest is None:
                raise
            log.warning("the files of TLS can't be used, and what they were before goes on: %s", error)
        return self._latest


def _asked(tls: Tls | bool | None) -> Tls | None:  # noqa: FBT001 - likewise
    if isinstance(tls, Tls):
        return tls
    if tls is False:
        return None
    given = Tls.from_environment()
    is_on = tls is True or os.environ.get("STEPWELL_TLS", "").lower() in _ON
    return given if is_on or given != Tls() else None


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CertificateError(f"{os.fspath(path)} can't be read: {error.strerror}") from None


def _check_ca(path: str | os.PathLike[str] | None, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise CertificateError(f"{path} holds no CA certificate in PEM") from None


def _check_pair(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
    try:
        # Without a pass phrase of our own it would ask on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, lambda: "")
    except (ssl.SSLError, OSError, ValueError):
        raise CertificateError(
            f"{os.fspath(certificate)} and {os.fspath(key)} are no certificate and its key, in PEM and without a pass "
            "phrase"
        ) from None
