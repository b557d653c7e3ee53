"""Settings come from the environment, documented and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stepwell_server.settings import Limits, Settings


def test_defaults_are_the_documented_ones() -> None:
    """Nothing needs to be set."""
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 7233)
    assert (settings.session_seconds, settings.heartbeat_seconds, settings.ack_seconds) == (30, 10, 5)
    assert settings.database_schema == "stepwell"
    assert settings.limits == Limits()


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting has its variable, nested ones too, and common spellings of a URL are understood."""
    monkeypatch.setenv("STEPWELL_DATABASE_URL", "postgresql+asyncpg://u:p@h/d")
    monkeypatch.setenv("STEPWELL_SCHEMA", "other")
    monkeypatch.setenv("STEPWELL_LIMITS__PAGE_ITEMS", "7")
    settings = Settings()
    assert settings.cold_url() == settings.direct_url() == "postgresql://u:p@h/d"
    assert settings.database_schema == "other"
    assert settings.limits.page_items == 7
    assert Settings(database_schema="third").database_schema == "third"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STEPWELL_PORT", "70000"),
        ("STEPWELL_DATABASE_URL", "mysql://h/d"),
        ("STEPWELL_SCHEMA", 'x"y'),
        ("STEPWELL_SESSION_SECONDS", "0"),
        ("STEPWELL_SLOW_SECONDS", "-1"),
        ("STEPWELL_HEARTBEAT_SECONDS", "31"),
        ("STEPWELL_LIMITS__RUN_EVENTS", "131072"),
    ],
)
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A server does not start on a setting that cannot work."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("name", list(Limits.model_fields))
def test_every_limit_is_told_in_the_documents(name: str) -> None:
    """With its default, in bytes or as people write them."""
    text = (Path(__file__).parents[1] / "docs/limits.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line)
    value = Limits.model_fields[name].default
    spelt = {f"{value:,}", f"{value / 1024:.0f} KiB", f"{value / 2**20:.0f} MiB", f"{value / 86_400:.0f} days"}
    assert any(f"| {each}" in line for each in spelt), line


@pytest.mark.parametrize("model", [Settings, Limits])
def test_every_setting_is_documented(model: type[Settings | Limits]) -> None:
    """Each field says what it is."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []
