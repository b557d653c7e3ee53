"""Whose connection a call came over, as far as its certificate tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell_server.api.interceptors.around import Context

_TRANSPORT, _TLS = "transport_security_type", (b"ssl", b"tls")
_URI, _DNS, _COMMON_NAME = "peer_uri", "peer_dns", "x509_common_name"


def certificate_names(context: Context) -> tuple[str, ...]:
    """The names in the certificate that the caller has proved to hold: URIs, then DNS names, then its common name.

    Each once, in the certificate's order. Empty where there is no such certificate, or none was asked for. A DNS name
    or a common name with a colon is left out: it would pass for a URI, and a CA that is strict about URIs may sign any
    common name.
    """
    known = context.auth_context()
    if not any(kind in _TLS for kind in known.get(_TRANSPORT, ())):
        return ()
    plain = [name for key in (_DNS, _COMMON_NAME) for name in _texts(known.get(key, ())) if ":" not in name]
    return tuple(dict.fromkeys([*_texts(known.get(_URI, ())), *plain]))


def _texts(values: object) -> list[str]:
    """What is UTF-8 and not empty."""
    texts = []
    for value in values if isinstance(values, tuple | list) else ():
        try:
            texts.append(value.decode())
        except UnicodeDecodeError:
            continue
    return [text for text in texts if text]
