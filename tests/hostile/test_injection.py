"""Text that would mean something to a database, a pattern, a log or a metric is text: kept, found and shown so."""

from __future__ import annotations

import json
import logging
import re
from io import StringIO
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from tests.hostile.fuzzing import INJECTIONS
from tests.hostile.methods import methods
from tests.hostile.test_page_tokens import REFUSED, refused
from tests.hostile.world import SPEC, World

from stepwell import Client
from stepwell.v1 import types_pb2
from stepwell_server import telemetry
from stepwell_server.api.fields import Fields
from stepwell_server.errors import InvalidField
from stepwell_server.settings import Limits, Settings
from stepwell_server.telemetry import metrics

ORDERED = [method for method in methods() if "order_by" in method.fields]
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
# What a pattern that was not kept apart would find too.
DECOYS = ("decoy", "x", "%x", "_x", "\\x")


def quoted(text: str) -> str:
    """As a filter takes it, to the letter."""
    return '"' + re.sub(r'(["\\*])', r"\\\1", text) + '"'


@pytest.mark.parametrize("text", INJECTIONS)
async def test_what_is_so_named_is_found_by_its_name_alone(made: World, text: str) -> None:
    """By filters for the whole name and for its beginning, whatever else there is."""
    decoy = f"decoy-{text}"
    for name in (text, decoy, f"{text}-more"):
        ref = types_pb2.Payload(json="1")
        await made.do("StartRun", type=text, task_queue=text, workflow_id=name, correlation_id=text, input=ref)
        await made.do("CreateSchedule", schedule={"name": name, "spec": SPEC, "run": {"type": text}})
        await made.do("StartJob", type=text, task_queue=text, unique_key=name)
        await made.do("CreateDefinition", definition={"code": name, "name": text, "description": text})
        await made.do("RegisterWorker", worker_id=name, task_queue=text)
        await made.do("PublishEvent", topic=name, payload=ref, retain={"seconds": 600})
    whole, begun = quoted(text), quoted(text)[:-1] + '*"'

    async def found(method: str, noun: str, **fields: Any) -> list[Any]:
        return list(getattr(await made.do(method, **fields), noun))

    runs = await found("ListRuns", "runs", filter=f"workflow_id = {whole}")
    assert [run.workflow_id for run in runs] == [text]
    runs = await found("ListRuns", "runs", filter=f"workflow_id = {begun}")
    assert {run.workflow_id for run in runs} == {each for each in await workflow_ids(made) if each.startswith(text)}
    assert {run.type for run in await found("ListRuns", "runs", filter=f"type = {whole}")} == {text}
    jobs = await found("ListJobs", "jobs", task_queue=text, unique_key=text)
    assert [(job.task_queue, job.type, job.unique_key) for job in jobs] == [(text, text, text)]
    assert (await made.do("GetSchedule", name=text)).schedule.name == text
    assert (await made.do("GetDefinitionCode", code=text)).version_count == 1


async def workflow_ids(made: World) -> list[str]:
    ids: list[str] = []
    token = ""
    while True:
        page = await made.do("ListRuns", page_size=1_000, page_token=token)
        ids += [run.workflow_id for run in page.runs]
        token = page.next_page_token
        if not token:
            return ids


@pytest.mark.parametrize("wild", ["%", "_", "\\", "%%", "a_c", "a%c"])
async def test_a_search_takes_wildcards_for_what_they_are(made: World, wild: str) -> None:
    await made.do("CreateDefinition", definition={"code": made._next(), "name": f"has {wild} in it"})
    await made.do("CreateDefinition", definition={"code": made._next(), "name": "abc without"})
    for title in (f"has {wild} in it", "abc without"):
        await made.do("CreateUserTask", run_id=await made._driven_run(), step_name="s", spec={"title": title})
    definitions = (await made.do("SearchDefinitions", text=wild, page_size=1_000)).definitions
    assert definitions
    assert all(wild in f"{each.name} {each.code} {each.description}" for each in definitions)
    tasks = (await made.do("ListUserTasks", query=wild, page_size=1_000)).user_tasks
    assert tasks
    assert all(wild in f"{each.spec.title} {each.spec.description}" for each in tasks)


@pytest.mark.parametrize("method", ORDERED, ids=lambda method: method.name)
async def test_an_order_is_of_fields_alone(made: World, method: Any) -> None:
    for text in (*INJECTIONS, "create_time; --", "(SELECT 1)", "1", "create_time NULLS FIRST", 'create_time"'):
        request = await made.good(method)
        request.order_by = text
        assert await refused(made, method, request) == ("INVALID_ARGUMENT", "order_by"), text


@pytest.mark.parametrize(
    "text", [*(text for text in INJECTIONS if text != "_"), "a-b", 'a"b', "a.b", "A", "", "é", "a" * 64, "a\n"]
)
def test_a_schema_has_a_plain_name(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(database_schema=text)


@pytest.mark.parametrize("text", INJECTIONS)
async def test_a_page_token_is_none(made: World, text: str) -> None:
    (method,) = (method for method in methods() if method.name == "ListRuns")
    request = await made.good(method)
    request.page_token = text
    assert await refused(made, method, request) == REFUSED


# --- logs, metrics, metadata ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"{ord(control):02x}")
def test_no_name_holds_what_a_terminal_or_a_log_would_obey(control: str) -> None:
    checks = Fields(Limits())
    for check in (checks.name, checks.text):
        with pytest.raises(InvalidField, match="control character"):
            check(f"a{control}b", "name")
    for namespace in (f"a{control}b", f"a{control}"):
        with pytest.raises(InvalidField):
            checks.namespace(namespace)


@pytest.mark.parametrize("text", [*INJECTIONS, 'a"}\n{"level":"error"', "\x1b[2J", "a\r\nb"])
def test_a_line_of_the_log_stays_one_line(text: str) -> None:
    stream = StringIO()
    telemetry.set_up_logs("debug", "json", stream)
    structlog.get_logger("hostile").warning("said", name=text)
    logging.getLogger("library").warning("said %s", text)
    written = stream.getvalue()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["event"] for line in lines] == ["said", f"said {text}"]
    assert lines[0]["name"] == text
    assert written.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", [text for text in INJECTIONS if "\u2028" not in text])
def test_a_label_of_a_metric_stays_a_label(text: str) -> None:
    try:
        metrics.set_backlog({(text, f'{text}"}} 1\n', "run"): (3, 1.0, 0)})
        shown = generate_latest(metrics.registry).decode()
    finally:
        metrics.set_backlog({})
    (family,) = (each for each in text_string_to_metric_families(shown) if each.name == "stepwell_backlog_tasks")
    (sample,) = family.samples
    assert (sample.labels["stepwell_namespace"], sample.labels["task_queue"]) == (text, f'{text}"}} 1\n')
    assert isinstance(metrics.registry, CollectorRegistry)


@pytest.mark.parametrize("key", ["swk_x\r\nx-admin: yes", "swk_\0", "swk_é", "swk_x\n"])
async def test_a_key_is_no_way_to_other_metadata(made: World, key: str) -> None:
    """The client says so in words of its own, without the key."""
    assert made.service is not None
    with pytest.raises(ValueError, match="one line of plain text") as raised:
        await Client.connect(made.service.address, api_key=key, connect_timeout=5)
    assert key not in str(raised.value)


async def test_metadata_with_a_line_break_does_not_arrive(made: World) -> None:
    (method,) = (method for method in methods() if method.name == "GetNamespace")
    other = World(made.service, made.channel, (("authorization", "Bearer x\r\nx-admin: yes"),))
    with pytest.raises(Exception, match=r"INVALID_METADATA|execute_batch"):
        await other.send(method, await made.good(method))
