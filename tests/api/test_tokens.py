"""Tokens of an issuer that the server trusts: what they must be, what they open, and what wrong ones cost."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args

import jwt
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs
from tests.api.issuing import AUDIENCE, ISSUER, Issuing, issuing
from tests.api.keyed import Keyed, keyed, refused
from tests.api.test_certificates import signed
from tests.api.test_known_keys import connecting, rest_of, watching, welcome
from tests.service import soon

from stepwell_server.dispatch import issuers as issuers_module
from stepwell_server.dispatch import key_sets
from stepwell_server.dispatch import tokens as tokens_module
from stepwell_server.trust import Algorithm

MALFORMED = ("UNAUTHENTICATED", "TOKEN_MALFORMED")
UNTRUSTED = ("UNAUTHENTICATED", "TOKEN_UNTRUSTED")
EXPIRED = ("UNAUTHENTICATED", "TOKEN_EXPIRED")
NO_KEYS = ("UNAVAILABLE", "ISSUER_KEYS_UNAVAILABLE")
NO_ROLE = ("PERMISSION_DENIED", "IDENTITY_WITHOUT_ROLE")
OK = ("OK", "")
HOUR = 3_600


@pytest.fixture
def issuer() -> Iterator[Issuing]:
    with issuing() as made:
        yield made


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys may be asked for again at once, where a test does not say otherwise."""
    monkeypatch.setattr(issuers_module, "_FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(issuers_module, "_PAUSE_SECONDS", 0.0)


@pytest_asyncio.fixture
async def server(database_url: str, issuer: Issuing) -> AsyncIterator[Keyed]:
    async with keyed(database_url, key_seconds=0.4, jwt_issuers=[issuer.setting()]) as made:
        yield made


async def said(server: Keyed, token: str) -> tuple[str, str]:
    return await server.refused("GetNamespace", token)


async def test_what_a_token_says_decides_what_it_opens(server: Keyed, issuer: Issuing) -> None:
    """The first rule that fits: by a list, within another claim, by a beginning, by one of several words."""
    await server.call("CreateNamespace", namespace="other")
    for claims, role, namespace, queues in (
        ({"groups": ["users", "platform"]}, 4, "-", []),
        ({"groups": "orders-ops"}, 5, "other", []),
        ({"sub": "system:serviceaccount:orders:w1"}, 2, "main", ["mine"]),
        ({"realm": {"role": "client"}}, 3, "main", []),
        ({}, 1, "main", []),
    ):
        found = await server.call("GetCaller", issuer.token(**claims))
        assert (found.proof, found.role, found.namespace, list(found.task_queues)) == (2, role, namespace, queues)
        assert found.name == f"{ISSUER} {claims.get('sub', 'ann')}"
        assert found.expire_time.seconds > time.time()
    operator = issuer.token(groups="orders-ops")
    assert await server.refused("UpdateNamespace", operator, namespace="other") != OK
    assert (await server.refused("GetNamespace", operator, namespace="other")) == OK
    assert (await server.refused("GetNamespace", operator)) == ("PERMISSION_DENIED", "NAMESPACE_DENIED")
    assert await said(server, issuer.token(scope="openid")) == NO_ROLE
    assert await said(server, issuer.token(scope="stepwell.reader")) == NO_ROLE
    assert await said(server, issuer.token(groups=7, scope=None)) == NO_ROLE
    assert await server.refused("StartRun", issuer.token(), type="t") == ("PERMISSION_DENIED", "ROLE_DENIED")


@pytest.mark.parametrize("algorithm", [each for each in get_args(Algorithm) if each[2:] != "384"])
async def test_each_algorithm_is_taken_where_it_is_allowed(database_url: str, algorithm: str) -> None:
    with issuing(algorithm) as made:
        for allowed, expected in (
            ([algorithm], OK),
            ([each for each in get_args(Algorithm) if each != algorithm], UNTRUSTED),
        ):
            async with keyed(database_url, jwt_issuers=[made.setting(algorithms=allowed)]) as server:
                assert await said(server, made.token()) == expected


async def test_what_must_be_there_and_right(server: Keyed, issuer: Issuing) -> None:
    now = time.time()
    for claims, expected in (
        ({}, OK),
        ({"aud": ["others", AUDIENCE]}, OK),
        ({"nbf": now + 20, "iat": now + 20}, OK),
        ({"exp": now - 20}, OK),
        ({"exp": now - 40}, EXPIRED),
        ({"exp": now + HOUR, "nbf": now + 60}, UNTRUSTED),
        ({"iat": now + 60}, UNTRUSTED),
        ({"iat": None}, OK),
        ({"aud": "others"}, UNTRUSTED),
        ({"aud": None}, UNTRUSTED),
        ({"aud": f"{AUDIENCE}/"}, UNTRUSTED),
        ({"iss": f"{ISSUER}/"}, UNTRUSTED),
        ({"iss": None}, MALFORMED),
        ({"sub": None}, UNTRUSTED),
        ({"exp": None}, UNTRUSTED),
        ({"exp": "soon"}, UNTRUSTED),
        ({"exp": float("inf")}, UNTRUSTED),
        ({"exp": float("nan")}, UNTRUSTED),
        ({"exp": 1e300}, OK),
        ({"exp": 10**400}, OK),
        ({"sub": ""}, UNTRUSTED),
        ({"sub": 7}, UNTRUSTED),
        ({"sub": "a\0"}, UNTRUSTED),
        ({"sub": "\ud800"}, UNTRUSTED),
        ({"sub": "x" * 1_025}, UNTRUSTED),
        ({"sub": "Zoë"}, OK),
        ({"nbf": "yesterday"}, UNTRUSTED),
        ({"nbf": True}, UNTRUSTED),
        ({"exp": -1}, UNTRUSTED),
    ):
        assert await said(server, issuer.token(**claims)) == expected, claims


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def forged(issuer: Issuing) -> Iterator[str]:
    """Tokens that nobody has signed, or with what anybody may know."""
    header, claims, signature = issuer.token().split(".")
    told = json.loads(base64.urlsafe_b64decode(claims + "=="))
    public = issuer.private().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    yield f"{part({'alg': 'none'})}.{claims}."
    yield f"{part({'alg': 'None', 'kid': 'k1'})}.{claims}.{signature}"
    yield f"{header}.{claims}."
    yield f"{header}.{part({**told, 'groups': 'platform'})}.{signature}"
    yield f"{header}.{claims}.{'A' * len(signature)}"
    for algorithm, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
        begun = f"{part({'alg': algorithm, 'kid': 'k1'})}.{claims}"
        for secret in (public, json.dumps(issuer.published["k1"]).encode(), b""):
            yield f"{begun}.{part(hmac.digest(secret, begun.encode(), digest))}"
    yield f"{part({'alg': 'ES256', 'kid': 'k1', 'crit': ['exp2'], 'exp2': 1})}.{claims}.{signature}"
    yield f"{part({'alg': 'RS256', 'kid': 'k1'})}.{claims}.{signature}"
    stranger = Issuing()
    yield stranger.token()
    own = {"jwk": stranger.published["k1"], "jku": "http://127.0.0.1:1/", "kid": "k1"}
    yield jwt.encode(told, stranger.private(), "ES256", own)


async def test_what_nobody_signed_opens_nothing(server: Keyed, issuer: Issuing) -> None:
    assert await said(server, issuer.token()) == OK
    for token in forged(issuer):
        assert (await said(server, token))[0] == "UNAUTHENTICATED", token


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b.c", MALFORMED),
        ("e30.e30.", MALFORMED),
        (f"{part([])}.e30.eA", MALFORMED),
        (f"{part({'alg': 'ES256'})}.{part(b'no json')}.eA", MALFORMED),
        (f"{part({'alg': 'ES256'})}.{part({'iss': ISSUER})}.eA", UNTRUSTED),
        (f"{part({'alg': ['ES256']})}.{part({'iss': ISSUER})}.eA", UNTRUSTED),
        (f"{part({'alg': 'ES256'})}.{part({'iss': [ISSUER]})}.eA", MALFORMED),
        ("a.b.c.d", ("UNAUTHENTICATED", "API_KEY_MALFORMED")),
        ("a.b", ("UNAUTHENTICATED", "API_KEY_MALFORMED")),
    ],
)
async def test_what_is_no_token_is_malformed(server: Keyed, text: str, expected: tuple[str, str]) -> None:
    assert await said(server, text) == expected


async def test_without_issuers_a_token_is_no_key(database_url: str, issuer: Issuing) -> None:
    async with keyed(database_url) as server:
        assert await said(server, issuer.token()) == ("UNAUTHENTICATED", "API_KEY_MALFORMED")


async def test_a_known_token_costs_no_signature(
    server: Keyed, issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a minute at most, and not beyond its end."""
    verified: list[object] = []
    verify = tokens_module._verified

    def counted(*given: Any) -> Any:
        verified.append(given)
        return verify(*given)

    monkeypatch.setattr(tokens_module, "_verified", counted)
    token, short = issuer.token(), issuer.token(exp=time.time() - 20)
    for _ in range(20):
        assert await said(server, token) == OK
        assert await said(server, short) == OK
    assert len(verified) == 2
    known = server.service.door.tokens
    assert known is not None
    for each, most in ((token, 60), (short, 10)):
        found = known.known(each)
        assert found is not None
        assert 0 < found.until - time.monotonic() <= most
        found.until = time.monotonic()
        assert await said(server, each) == OK
    assert len(verified) == 4


async def test_tokens_that_are_known_are_bounded(
    server: Keyed, issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "_MOST_KNOWN", 3)
    for number in range(6):
        assert await said(server, issuer.token(jti=str(number))) == OK
    assert server.service.door.tokens is not None
    assert len(server.service.door.tokens._known) == 3


# --- the issuer's keys ------------------------------------------------------------------------------------------------


async def test_a_new_key_is_seen_and_an_old_one_given_up(
    server: Keyed, issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the calls, once what is known is no longer fresh."""
    old = issuer.token()
    assert await said(server, old) == OK
    issuer.add("k2")
    assert await said(server, issuer.token(key_id="k2")) == OK
    assert issuer.asked == 2
    del issuer.published["k1"]
    monkeypatch.setattr(issuers_module, "_FRESH_SECONDS", 0.0)

    async def is_given_up() -> bool:
        return await said(server, issuer.token()) == UNTRUSTED

    await soon(is_given_up)
    assert await said(server, issuer.token(key_id="k2")) == OK


async def test_keys_that_are_nowhere_cost_one_question(
    server: Keyed, issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens name them, one after another and at once; known keys are not held up."""
    monkeypatch.setattr(issuers_module, "_PAUSE_SECONDS", 3_600.0)
    assert await said(server, issuer.token()) == OK
    assert issuer.asked == 1
    answers = await asyncio.gather(*(said(server, issuer.token(kid=f"none-{number}")) for number in range(100)))
    assert set(answers) == {UNTRUSTED}
    assert issuer.asked == 1
    keys = next(iter(server.service.door.tokens._issuers.values())).keys  # type: ignore[union-attr]
    keys._tried = float("-inf")
    answers = await asyncio.gather(*(said(server, issuer.token(kid=f"none-{number}")) for number in range(100)))
    assert set(answers) == {UNTRUSTED}
    assert issuer.asked == 2
    assert await said(server, issuer.token(jti="another")) == OK


async def test_the_first_calls_ask_for_the_keys_together(server: Keyed, issuer: Issuing) -> None:
    answers = await asyncio.gather(*(said(server, issuer.token(jti=str(number))) for number in range(30)))
    assert set(answers) == {OK}
    assert issuer.asked == 1


async def test_while_the_issuer_is_away_its_keys_stay(
    server: Keyed, issuer: Issuing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who comes with one that is not known hears that he should come again only if none is known."""
    issuer.status = 503
    assert await said(server, issuer.token()) == NO_KEYS
    issuer.status = 200
    assert await said(server, issuer.token()) == OK
    issuer.status = 503
    monkeypatch.setattr(issuers_module, "_FRESH_SECONDS", 0.0)
    with capture_logs() as logs:
        for number in range(5):
            assert await said(server, issuer.token(jti=str(number))) == OK
        assert await said(server, issuer.token(kid="k2")) == UNTRUSTED
    assert {entry["event"] for entry in logs if entry["log_level"] == "warning"} == {"issuer.keys_unavailable"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 302, "moved": "/elsewhere"},
        {"status": 500},
        {"body": b"no json"},
        {"body": b"[]"},
        {"body": b"{}"},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]}'},
        {"padding": 1_100_000},
    ],
    ids=["redirect", "error", "text", "list", "empty", "none", "shared", "long"],
)
async def test_what_is_no_key_set_is_not_taken(server: Keyed, issuer: Issuing, wrong: dict[str, Any]) -> None:
    for name, value in wrong.items():
        setattr(issuer, name, value)
    assert await said(server, issuer.token()) == NO_KEYS
    asked = issuer.asked
    assert asked == 1


async def test_a_key_is_for_its_algorithm(server: Keyed, issuer: Issuing) -> None:
    """As the set says; a weak one is for none. Without an id the only one that suits is meant."""
    assert await said(server, issuer.token(kid=None)) == OK
    issuer.add("k2")
    issuer.add("edwards", "EdDSA")
    assert await said(server, issuer.token(key_id="k2")) == OK
    assert await said(server, issuer.token(kid=None, jti="two suit")) == UNTRUSTED
    assert await said(server, issuer.token(key_id="edwards", kid=None)) == OK
    issuer.published["k1"]["alg"] = "ES384"
    issuer.published["k2"]["use"] = "enc"
    issuer.add("k3")
    assert await said(server, issuer.token(key_id="k3")) == OK
    assert await said(server, issuer.token(jti="other alg")) == UNTRUSTED
    assert await said(server, issuer.token(key_id="k2", jti="other use")) == UNTRUSTED


async def test_an_issuer_that_hangs_holds_up_none_but_its_own(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait are answered, and however many come, it is asked once at a time."""
    monkeypatch.setattr(key_sets, "_SOCKET_SECONDS", 60.0)
    asked: list[object] = []
    let_go = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(reader)
        await let_go.wait()
        writer.close()

    hanging = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}/keys"
    with issuing() as issuer:
        other = issuer.setting(issuer="https://hangs.example.com", jwks_url=url)
        async with keyed(database_url, jwt_issuers=[issuer.setting(), other]) as server:
            assert await said(server, issuer.token()) == OK
            monkeypatch.setattr(issuers_module, "_LOAD_SECONDS", 0.05)

            async def was_asked() -> bool:
                return bool(asked)

            for number in range(3):
                assert await said(server, issuer.token(iss="https://hangs.example.com")) == NO_KEYS
                assert await said(server, issuer.token(jti=str(number))) == OK
                await soon(was_asked)
            assert len(asked) == 1
            let_go.set()
    hanging.close()


async def test_keys_are_fetched_from_whom_a_ca_knows(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca = signed("ca", None)
    private, certificate = signed("keys", ca, x509.IPAddress(ip_address("127.0.0.1"))).pem
    (tmp_path / "keys.pem").write_bytes(private + certificate)
    (tmp_path / "ca.pem").write_bytes(ca.pem[1])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "keys.pem")
    with issuing(tls=tls) as issuer:
        async with keyed(database_url, jwt_issuers=[issuer.setting()]) as server:
            assert await said(server, issuer.token()) == NO_KEYS
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            assert await said(server, issuer.token()) == OK


async def test_keys_may_be_in_a_file(database_url: str, tmp_path: Path) -> None:
    """Which is read again for a key that is not known."""
    issuer, path = Issuing(), tmp_path / "keys.json"
    async with keyed(database_url, jwt_issuers=[issuer.setting(jwks_file=str(path))]) as server:
        assert await said(server, issuer.token()) == NO_KEYS
        path.write_bytes(issuer.keys)
        assert await said(server, issuer.token()) == OK
        issuer.add("k2")
        path.write_bytes(issuer.keys)
        assert await said(server, issuer.token(key_id="k2")) == OK


# --- streams and sessions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_stream", [watching, connecting])
async def test_streams_end_with_their_token(server: Keyed, issuer: Issuing, open_stream: Any) -> None:
    """With the reason; one whose token is good for longer goes on."""
    claims: dict[str, Any] = {"sub": "system:serviceaccount:orders:w1"} if open_stream is connecting else {}
    now = server.service.clock.now().timestamp()
    short, long = issuer.token(**claims), issuer.token(**claims, exp=now + 9 * HOUR)
    streams = [open_stream(server, each) for each in (short, long)]
    if open_stream is connecting:
        for place, stream in enumerate(streams):
            assert (await welcome(stream, worker_id=f"w{place}", task_queues=["mine"])).session_id

    async def both_are_open() -> bool:
        return len(server.service.door.streams) == 2

    await soon(both_are_open)
    await server.call("AdvanceClock", by=Duration(seconds=HOUR + 60))
    async with asyncio.timeout(60):
        assert await refused(rest_of(streams[0])) == EXPIRED
    assert not streams[1].done()
    streams[1].cancel()


async def test_a_session_outlives_its_token(server: Keyed, issuer: Issuing) -> None:
    """It is the subject's, whatever token he comes with; another subject's is another's."""
    sub = "system:serviceaccount:orders:w1"
    stream = connecting(server, issuer.token(sub=sub))
    session_id = (await welcome(stream, task_queues=["mine"])).session_id
    thief = connecting(server, issuer.token(sub="system:serviceaccount:orders:w2"))
    denied = ("FAILED_PRECONDITION", "SESSION_EXPIRED")
    assert await refused(welcome(thief, task_queues=["mine"], session_id=session_id)) == denied
    again = connecting(server, issuer.token(sub=sub, jti="renewed"))
    assert (await welcome(again, task_queues=["mine"], session_id=session_id)).resumed
    stream.cancel()
    again.cancel()


async def test_nothing_of_a_token_is_told(server: Keyed, issuer: Issuing) -> None:
    """Neither in a refusal nor in a log, whatever is wrong with it."""
    tokens = [issuer.token(), issuer.token(aud="x"), issuer.token(exp=1), issuer.token(scope="x"), *forged(issuer)]
    with capture_logs() as logs:
        for token in tokens:
            try:
                await server.call("GetNamespace", token)
            except Exception as error:  # noqa: BLE001 - whatever it was
                told = f"{error!r} {getattr(error, 'trailing_metadata', tuple)()}"
                for piece in token.split("."):
                    assert len(piece) < 8 or piece not in told
    for token in tokens:
        for piece in token.split("."):
            assert len(piece) < 8 or piece not in repr(logs)
