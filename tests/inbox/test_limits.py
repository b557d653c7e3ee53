"""The SQL functions refuse what the calls of the service refuse: its limits are theirs."""

from __future__ import annotations

import json

import asyncpg
import pytest
from tests.engine.replica import replica
from tests.inbox.kit import Seen, program, start
from tests.service import soon

from stepwell_server.loops.connection import SharedConnection
from stepwell_server.loops.inbox_limits import InboxLimits
from stepwell_server.service import Service
from stepwell_server.settings import Limits, Settings


async def test_the_functions_keep_to_what_the_service_is_set_to(database_url: str) -> None:
    """Both less and more than the defaults, from when a server leads."""
    limits = Limits(id_bytes=300, payload_bytes=100)
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0, limits=limits)
    async with Service(settings), program(database_url) as sql:
        await soon(lambda: sql.fetchval("SELECT id_bytes = 300 FROM stepwell.inbox_limits"))
        with pytest.raises(asyncpg.InvalidParameterValueError, match="workflow_id has more than 300 bytes"):
            await start(sql, workflow_id="x" * 301)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="type is required: give it 1 to 300 bytes"):
            await start(sql, type="")
        with pytest.raises(asyncpg.InvalidParameterValueError, match="input has 101 bytes, and a payload at most 100"):
            await start(sql, input=json.dumps("x" * 99))
        run_id = await start(sql, workflow_id="x" * 300, input=json.dumps("x" * 98))
        await soon(lambda: sql.fetchval("SELECT count(*) = 0 FROM stepwell.inbox"))
        assert list(await Seen(sql).runs()) == [run_id]


async def test_another_leader_s_limits_are_written_over(database_url: str) -> None:
    """Nothing is written where they are the same."""
    async with replica(database_url) as one, program(database_url) as sql:
        connection = SharedConnection(one.database)
        first = InboxLimits(connection, Limits(id_bytes=20), 60)
        second = InboxLimits(connection, Limits(), 60)
        assert [await each.run_once() for each in (first, first, second, second, first)] == [1, 0, 1, 0, 1]
        await connection.close()
        with pytest.raises(asyncpg.InvalidParameterValueError, match="more than 20 bytes"):
            await start(sql, workflow_id="x" * 21)
