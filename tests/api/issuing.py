"""An issuer of tokens on loopback: keys that come and go, tokens signed with them, and its address."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER, AUDIENCE = "https://login.example.com", "stepwell"
RULES = [
    {"claims": {"groups": "platform"}, "role": "admin"},
    {"claims": {"groups": "orders-ops"}, "role": "operator", "namespace": "other"},
    {"claims": {"sub": "system:serviceaccount:orders:*"}, "role": "worker", "task_queues": ["mine"]},
    {"claims": {"realm.role": "client"}, "role": "client"},
    {"claims": {"scope": "stepwell.read"}, "role": "reader"},
]


def private_key(algorithm: str) -> Any:
    if algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        return ec.generate_private_key(curves[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65_537, 2_048)


class Issuing:
    """See the module. `status`, `body`, `padding` and `moved` say what its address answers instead."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.algorithm = algorithm
        self.url = ""
        self.asked = 0
        self.status = 200
        self.moved = ""
        self.body: bytes | None = None
        self.padding = 0
        self._private: dict[str, tuple[str, Any]] = {}
        self.published: dict[str, dict[str, Any]] = {}
        self.add("k1")

    def add(self, key_id: str, algorithm: str = "", *, publish: bool = True) -> None:
        algorithm = algorithm or self.algorithm
        private = private_key(algorithm)
        self._private[key_id] = (algorithm, private)
        public = json.loads(get_default_algorithms()[algorithm].to_jwk(private.public_key()))
        if publish:
            self.published[key_id] = {**public, "kid": key_id, "use": "sig"}

    @property
    def keys(self) -> bytes:
        return json.dumps({"keys": list(self.published.values())}).encode()

    def private(self, key_id: str = "k1") -> Any:
        return self._private[key_id][1]

    def token(self, *, key_id: str = "k1", kid: str | None = "", now: float | None = None, **claims: Any) -> str:
        """A token of that key, good for a reader unless other claims are given; one given as None is left out."""
        algorithm, private = self._private[key_id]
        now = time.time() if now is None else now
        said: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 3_600}
        said |= {"scope": "openid stepwell.read", **claims}
        headers = {"kid": kid or key_id} if kid is not None else {}
        shown = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(shown, private, algorithm, headers)

    def setting(self, **given: Any) -> dict[str, Any]:
        """What `STEPWELL_JWT_ISSUERS` says of it."""
        where = {"jwks_url": self.url} if self.url else {}
        return {"issuer": ISSUER, "audience": AUDIENCE, "rules": RULES, **where, **given}


@contextmanager
def issuing(algorithm: str = "ES256", tls: ssl.SSLContext | None = None) -> Iterator[Issuing]:
    issuer = Issuing(algorithm)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            body = issuer.keys + b" " * issuer.padding if issuer.body is None else issuer.body
            self.send_response(issuer.status)
            if issuer.moved:
                self.send_header("location", issuer.moved)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    issuer.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
