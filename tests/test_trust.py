"""Whom the service trusts: what may be set, and which rule fits whom."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from stepwell_server.settings import Settings
from stepwell_server.trust import CertificateRule, Grant, Issuer, TokenRule

ISSUER: dict[str, Any] = {
    "issuer": "https://login.example.com",
    "audience": "stepwell",
    "jwks_url": "https://login.example.com/keys",
    "rules": [{"claims": {"sub": "ann"}, "role": "reader"}],
}


def test_issuers_and_rules_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_JWT_ISSUERS", json.dumps([ISSUER]))
    monkeypatch.setenv("STEPWELL_CERTIFICATE_RULES", json.dumps([{"name": "spiffe://prod/*", "role": "worker"}]))
    settings = Settings()
    (issuer,), (rule,) = settings.jwt_issuers, settings.certificate_rules
    assert (issuer.audience, issuer.algorithms) == (("stepwell",), ("RS256", "ES256", "EdDSA"))
    assert (rule.name, rule.role, rule.scope) == ("spiffe://prod/*", "worker", "main")


@pytest.mark.parametrize(
    "wrong",
    [
        {"jwks_url": "http://login.example.com/keys"},
        {"jwks_url": "http://127.0.0.1.example.com/keys"},
        {"jwks_url": "http://localhost@example.com/keys"},
        {"jwks_url": "file:///etc/passwd"},
        {"jwks_url": "https:///keys"},
        {"jwks_url": None},
        {"jwks_file": "/keys"},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"audience": []},
        {"audience": ""},
        {"issuer": ""},
        {"rules": []},
        {"rules": [{"claims": {}, "role": "reader"}]},
        {"rules": [{"claims": {"sub": ""}, "role": "reader"}]},
        {"rules": [{"claims": {"sub": "a"}, "role": "writer"}]},
        {"rules": [{"claims": {"sub": "a"}, "role": "admin", "namespace": "main"}]},
        {"rules": [{"claims": {"sub": "a"}, "role": "client", "task_queues": ["q"]}]},
        {"rules": [{"claims": {"sub": "a"}, "role": "client", "namespace": "a b"}]},
        {"rules": [{"claims": {"sub": "a"}, "role": "client", "queues": ["q"]}]},
        {"leeway_seconds": 301},
        {"leeway": 1},
    ],
)
def test_what_would_not_be_safe_is_refused(wrong: dict[str, Any]) -> None:
    """A slip does not open the door, nor does it go unnoticed."""
    Issuer(**ISSUER)
    with pytest.raises(ValidationError):
        Issuer(**{**ISSUER, **wrong})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/k", "http://[::1]/k", "http://localhost/k", "https://x/k"])
def test_keys_are_read_where_nobody_can_change_them(url: str) -> None:
    assert Issuer(**{**ISSUER, "jwks_url": url}).jwks_url == url


def test_an_issuer_stands_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Settings(jwt_issuers=(Issuer(**ISSUER), Issuer(**ISSUER)))


@pytest.mark.parametrize(
    ("claims", "said", "fits"),
    [
        ({"sub": "ann"}, {"sub": "ann"}, True),
        ({"sub": "ann"}, {"sub": "anna"}, False),
        ({"sub": "an*"}, {"sub": "anna"}, True),
        ({"sub": "*"}, {}, False),
        ({"groups": "a"}, {"groups": ["b", "a"]}, True),
        ({"groups": "a"}, {"groups": ["b", 1, None, {"a": "a"}]}, False),
        ({"groups": "a"}, {"groups": "b a"}, False),
        ({"scope": "a"}, {"scope": "b a"}, True),
        ({"scope": "b a"}, {"scope": "b a"}, False),
        ({"x.scope": "a"}, {"x": {"scope": "b a"}}, False),
        ({"realm.roles": "a"}, {"realm": {"roles": ["a"]}}, True),
        ({"https://example.com/role": "a"}, {"https://example.com/role": "a"}, True),
        ({"kubernetes.io.serviceaccount.name": "w"}, {"kubernetes.io": {"serviceaccount": {"name": "w"}}}, True),
        ({"kubernetes.io.serviceaccount.name": "w"}, {"kubernetes": {"io.serviceaccount": {"name": "w"}}}, True),
        ({"a.b": "c"}, {"a": "b"}, False),
        ({"a.b": "c"}, {"a": ["b"]}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": "True"}, {"a": True}, False),
        ({"a": "x", "b": "y"}, {"a": "x"}, False),
        ({"a": "x", "b": "y"}, {"a": "x", "b": "y"}, True),
    ],
)
def test_a_token_must_say_all_that_a_rule_wants(claims: dict[str, str], said: dict[str, Any], fits: bool) -> None:
    assert TokenRule(role="reader", claims=claims).fits(said) is fits


def test_a_grant_is_for_main_unless_it_is_an_admin_s() -> None:
    assert Grant(role="reader").scope == "main"
    assert Grant(role="reader", namespace="-").scope is None
    assert Grant(role="admin").scope is None
    assert Grant(role="admin", namespace="-").scope is None
    assert CertificateRule(name="w", role="worker", task_queues=("q",)).task_queues == ("q",)
