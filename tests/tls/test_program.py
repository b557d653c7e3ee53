"""The program with TLS as an operator meets it; and that it keeps what is secret to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.certificates import Authority
from tests.main.program import outcome, program
from tests.tls.kit import SERVING, Secret, asked, secret_in
from typer.testing import CliRunner

from stepwell_server import main, running
from stepwell_server.settings import Settings

PASSWORD = "s3cr3t-pa55"
AWAY = f"postgresql://stepwell:{PASSWORD}@127.0.0.1:1/none"


def test_half_of_the_settings_is_a_clear_error() -> None:
    ended = CliRunner().invoke(
        main.app, ["serve"], env={"STEPWELL_DATABASE_URL": AWAY, "STEPWELL_TLS_CERTIFICATE_FILE": "tls.crt"}
    )
    assert ended.exit_code == 2
    assert "STEPWELL_TLS_CERTIFICATE_FILE and STEPWELL_TLS_KEY_FILE go together" in ended.output


async def test_a_certificate_that_does_not_suit_is_a_clear_error(tmp_path: Path) -> None:
    """It stands in the words of the settings, without a stack and without the key."""
    authority, secret = Authority(), Secret(tmp_path)
    pair = authority.issue()
    pair.key = authority.issue().key
    secret.put(pair)
    code, said = await outcome("serve", "--port", "0", DATABASE_URL=AWAY, **_files(tmp_path))
    assert code == 1
    assert "STEPWELL_TLS_KEY_FILE does not belong to the first certificate" in said
    assert "Traceback" not in said
    assert not [line for line in pair.key.decode().splitlines() if line in said]


async def test_secrets_are_neither_logged_nor_listed(tmp_path: Path) -> None:
    """A server whose database is away says so again and again; its password and its key are in none of it."""
    authority = Authority()
    _, pair = secret_in(tmp_path, authority)
    variables = {**_files(tmp_path), "DATABASE_URL": AWAY, "LOG_LEVEL": "debug", "PORT": "0"}
    async with program("serve", **variables) as server:
        listening = await server.say("listening")
        await server.say("not ready")
        assert await asked(listening["address"], authority.credentials(), "liveness") == SERVING
        pid = server.process.pid
        listed = (Path("/proc") / str(pid) / "cmdline").read_text()
        assert "serve" in listed
        server.process.terminate()
        assert await server.end() == 0
        said = f"{listed} {server.lines} {server.printed}"
    assert PASSWORD not in said
    assert not [line for line in pair.key.decode().splitlines() if line in said]


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{PASSWORD}@127.0.0.1/d",
        f"postgresql://u:{PASSWORD}@127.0.0.1:port/d",
        f"postgresql://u:a@{PASSWORD}@127.0.0.1:1/d",
        f"postgresql://u:{PASSWORD}@[::1/d",
        f"postgresql://u:{PASSWORD}/a@127.0.0.1:1/d",
        f"postgresql://u:{PASSWORD}#a@127.0.0.1:1/d",
        f"postgresql://u:{PASSWORD}\u2100@127.0.0.1:1/d",
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/d?sslmode=none",
        f"postgresql://u@127.0.0.1:1/d?password={PASSWORD}&sslmode=none",
    ],
)
def test_a_url_that_is_wrong_is_told_without_its_password(url: str) -> None:
    """Whether the settings refuse it or the driver does."""
    ended = CliRunner().invoke(main.app, ["check"], env={"STEPWELL_DATABASE_URL": url})
    assert ended.exit_code != 0
    assert isinstance(ended.exception, SystemExit)
    assert "stepwell-server: " in ended.output
    assert PASSWORD not in ended.output


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"host": "0.0.0.0"}, "keys travel in the clear"),  # noqa: S104 - nothing listens
        ({"host": "127.0.0.1"}, ""),
        ({"host": "::1"}, ""),
        ({"host": "localhost"}, ""),
        ({"host": "0.0.0.0", "tls_certificate_file": "c", "tls_key_file": "k"}, ""),  # noqa: S104 - likewise
        ({"host": "0.0.0.0", "require_keys": False}, "open to everybody"),  # noqa: S104 - likewise
    ],
)
def test_keys_in_the_clear_are_warned_of(settings: dict[str, Any], warned: str) -> None:
    """Where others can reach the server, and nobody encrypts as far as it knows."""
    with capture_logs() as logs:
        running.warn(Settings(**{"require_keys": True, **settings}))
    assert [each["event"] for each in logs] == ([warned] if warned else [])


def _files(folder: Path) -> dict[str, str]:
    return {"TLS_CERTIFICATE_FILE": str(folder / "tls.crt"), "TLS_KEY_FILE": str(folder / "tls.key")}
