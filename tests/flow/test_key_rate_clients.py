"""Limits of keys from programs, with and without asyncio, and from the command."""

from __future__ import annotations

import asyncio

import pytest
from tests.sdk.live import Live
from tests.sdk.test_cli_live import stepwell

from stepwell import RateLimit, errors, sync
from stepwell.v1 import task_queues_pb2


async def test_what_is_not_named_stays_and_none_takes_it_away(one: Live) -> None:
    calls = one.client.update_task_queue
    settings = await calls("mails", fairness={"premium": 3}, key_rate_limit=RateLimit(5, burst=10))
    assert settings.key_rate_limit == task_queues_pb2.RateLimit(per_second=5, burst=10)
    settings = await calls("mails", rate_limit=RateLimit(2.5))
    assert settings.key_rate_limit == task_queues_pb2.RateLimit(per_second=5, burst=10)
    assert settings.rate_limit == task_queues_pb2.RateLimit(per_second=2.5, burst=3)
    with pytest.raises(errors.InvalidArgument, match="key_rate_limit"):
        await calls("mails", fairness="none")
    settings = await calls("mails", key_rate_limit="none", fairness="none")
    assert not settings.HasField("key_rate_limit")
    assert settings.HasField("rate_limit")


async def test_the_same_without_asyncio(one: Live) -> None:
    def update() -> task_queues_pb2.TaskQueueSettings:
        with sync.Client.connect(one.client.address) as client:
            return client.update_task_queue("mails", fairness={}, key_rate_limit=RateLimit(0.5))

    settings = await asyncio.to_thread(update)
    assert settings.key_rate_limit == task_queues_pb2.RateLimit(per_second=0.5, burst=1)


async def test_the_command_sets_shows_and_takes_away(one: Live) -> None:
    code, out, _ = await stepwell(
        one.server, "queue", "set", "mails", "--turns", "--key-rate", "0.5", "--key-burst", "4"
    )
    assert (code, out.split("rate of a key  ")[1].strip()) == (0, "0.5 a second, 4 at once")
    _, out, _ = await stepwell(one.server, "queue", "show", "mails")
    assert "rate of a key: 0.5 a second, 4 at once" in out
    code, _, told = await stepwell(one.server, "queue", "set", "mails", "--no-turns")
    assert code != 0
    assert "key_rate_limit" in told
    code, out, _ = await stepwell(one.server, "queue", "set", "mails", "--key-rate", "none")
    assert (code, "rate of a key" in out) == (0, False)
    code, _, told = await stepwell(one.server, "queue", "set", "mails", "--key-rate", "much")
    assert code != 0
    assert "much is no number" in told
