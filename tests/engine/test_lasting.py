"""What a run keeps in tables of its own when it ends, also if that is in the very batch in which it was begun."""

from __future__ import annotations

import asyncio

import asyncpg
from tests.engine.replica import replica

from stepwell_server.engine.driven_data import SetRunData
from stepwell_server.engine.driven_runs import MarkRunCompleted
from stepwell_server.engine.run_data import DataChange, How
from stepwell_server.engine.starts import NewRun, StartRun
from stepwell_server.model.definitions import DefinitionRef
from stepwell_server.model.payloads import JSON, NULL, Payload
from stepwell_server.model.runs import RunRef

DEFINITION = """
    INSERT INTO definitions
        (namespace_id, definition_id, code, version, name, description, active, revision, create_time, update_time)
    VALUES (1, gen_random_uuid(), 'order', 1, '', '', TRUE, 1, now(), now())
"""


async def test_of_a_run_of_one_batch(database_url: str) -> None:
    raw = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    await raw.execute(DEFINITION)
    one = Payload(JSON, b"1")
    new = NewRun(
        1, "main", "", "q", workflow_id="w", driven=True, definition=DefinitionRef(code="order"), data={"a": one}
    )
    ref = RunRef(1, "main", workflow_id="w")
    changes = (DataChange("b", How.SET, one), DataChange("a", How.REMOVE))
    async with replica(database_url) as served:
        commands = (StartRun(new), SetRunData(ref, changes, 1, 0), MarkRunCompleted(ref, NULL, 0))
        await asyncio.gather(*map(served.submit, commands))
        assert [len(changed) for _, _, changed in served.ears.batches] == [1], "it was one batch"
    assert await raw.fetchval("SELECT count(*) FROM closed_runs JOIN run_definitions USING (run_key)") == 1
    assert [row[0] for row in await raw.fetch("SELECT name FROM run_data")] == ["b"]
    await raw.close()
