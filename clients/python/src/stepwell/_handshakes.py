"""Why no connection comes about, in words that say what to do: gRPC tells of it in TLS's own."""

from __future__ import annotations

_TRUST = (
    "the service's certificate was signed by no CA that is known here: give its CA's file by STEPWELL_TLS_CA_FILE, "
    "--tls-ca or Tls(ca_file=...)"
)
# The first that fits.
_CERTAIN = (
    ("certificate has expired", "the service's certificate has ended: it must be renewed"),
    ("Hostname Verification Check failed", "the service's certificate has other names: connect by one that it has"),
    ("is not in peer certificate", "the service's certificate has other names: connect by one that it has"),
    ("CERTIFICATE_VERIFY_FAILED", _TRUST),
    ("certificate signature failure", _TRUST),
    ("WRONG_VERSION_NUMBER", "nobody speaks TLS at this port: connect without it"),
)
_HUNG_UP = (
    "whoever is there hung up: if the port speaks TLS, turn that on and give its CA's file (STEPWELL_TLS_CA_FILE, "
    "--tls-ca); if it asks for certificates, give yours (STEPWELL_TLS_CLIENT_CERTIFICATE_FILE and "
    "STEPWELL_TLS_CLIENT_KEY_FILE, --tls-certificate and --tls-key), signed by a CA that it knows and not ended"
)


def certain_advice(details: str) -> str:
    """What to do about a handshake that will go no better the next time; empty for all else."""
    return next((advice for sign, advice in _CERTAIN if sign in details), "")


def advice(details: str) -> str:
    """What to do about a connection that did not come about; empty if gRPC's word for it says enough."""
    hung_up = "failed to connect" in details and "Socket closed" in details
    return certain_advice(details) or (_HUNG_UP if hung_up else "")
