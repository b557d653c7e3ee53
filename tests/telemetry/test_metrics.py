"""Every metric that is declared is fed, and told to Prometheus."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from tests.api.stores import Store, span
from tests.chaos.kit import free_port
from tests.loops.rig import rigged
from tests.service import refusal
from tests.stream.code import Code
from tests.stream.kit import ACTIVITY, RUN, SECONDS, Replica, capacity, hello, replica, until
from tests.stream.wire import Wire
from tests.telemetry.declared import declared
from tests.telemetry.test_counting import served

from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc, runs_pb2, types_pb2
from stepwell.v1.workers_pb2 import FailActivity
from stepwell_server.loops.backlog import Backlog
from stepwell_server.loops.loop import Loop
from stepwell_server.model.tasks import TaskKind
from stepwell_server.model.workers import Hello, pack_hello
from stepwell_server.store.crews import Crews
from stepwell_server.store.faults import Lost
from stepwell_server.telemetry import calls, metrics

# What is nothing, or nearly so, unless much is asked for at once.
AT_REST = {"stepwell_calls_under_way", "stepwell_committer_waiting_commands", "stepwell_pool_connections_used"}
AT_REST |= {"stepwell_dead_letters", "stepwell_certificate_expiry_seconds"}
Told = dict[str, dict[tuple[str, ...], float]]


def instruments() -> set[str]:
    """The names under which Prometheus sees the measurements of all that is declared."""
    ending = {"counter": "_total", "histogram": "_count", "gauge": ""}
    return {each.name + ending[each.kind] for each in declared()}


def read(address: str) -> Told:
    """What is told, by name and labels; labels in the order of their names."""
    with urlopen(f"http://{address}/metrics", timeout=SECONDS) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    told: Told = {}
    for sample in (sample for family in families for sample in family.samples):
        told.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return told


async def address_of(log: Path) -> str:
    """Where a service serves its metrics, as it says."""

    def said() -> list[Any]:
        return [json.loads(line) for line in log.read_text().splitlines() if '"metrics"' in line]

    return str((await until(said))[0]["address"])


async def lived(replica: Replica) -> None:
    """Something of everything: tried twice, told of, lost, refused, waiting, and an outside engine's."""
    stream = await Wire(replica, hello("w", capacity=capacity(runs=5, activities=5))).open(is_lively=False)
    run_id = await replica.start()
    code = Code(stream, await stream.task(RUN))
    await code.wait(code.activity(retry=types_pb2.RetryPolicy(initial_interval=span(0.001))))
    first = await stream.task(ACTIVITY)
    await stream.beat(first)
    await stream.report(first.ref, fail=FailActivity(failure=types_pb2.Failure(message="again")))
    await stream.task(ACTIVITY)
    await stream.settled()
    await replica.end(run_id)
    await stream.next("revokes")
    assert await refusal(replica.runs.GetRun(runs_pb2.GetRunRequest(run_id=run_id[::-1]), timeout=SECONDS))
    await replica.start(queue="nobody's")
    await replica.start_job()
    job = await stream.task(ACTIVITY)
    await stream.beat(job)
    await stream.complete(job)
    store = Store(replica, "run")
    driven = (await store.call("CreateRun", type="t", initial_phase=types_pb2.RUN_PHASE_RUNNING)).run_id
    token = (await store.call("ClaimRun", run_id=driven, owner_id="e", lease_duration=span(30))).token
    await store.call("RenewRunLease", run_id=driven, owner_id="e", token=token, lease_duration=span(30))
    kept = namespaces_pb2.UpdateNamespaceRequest(retention=span(1), update_mask={"paths": ["retention"]})  # type: ignore[arg-type]
    await namespaces_pb2_grpc.NamespaceServiceStub(replica.channel).UpdateNamespace(kept, timeout=SECONDS)


async def test_every_metric_is_fed(tmp_path: Path, database_url: str) -> None:
    settings = {"METRICS_PORT": "0", "BACKLOG_POLL_SECONDS": "0.1", "RETENTION_POLL_SECONDS": "0.2"}
    settings["SLOW_SECONDS"] = "0.0000001"
    async with served(tmp_path, database_url, free_port(), {}, **settings) as (_, replica):
        address = await address_of(tmp_path / "server.log")
        await lived(replica)

        async def fed() -> set[str]:
            told = await asyncio.to_thread(read, address)
            return {name for name in instruments() if any(told.get(name, {}).values())}

        assert await until(fed, lambda found: found >= instruments() - AT_REST)
        told = await asyncio.to_thread(read, address)
    assert told["stepwell_claims_total"] == {("activity",): 2, ("run",): 2, ("job",): 1}
    assert told["stepwell_schedule_to_start_seconds_count"] == {("activity",): 2, ("run",): 1, ("job",): 1}
    assert told["stepwell_heartbeats_total"] == {
        ("activity", "recorded"): 1,
        ("job", "recorded"): 1,
        ("session", "heard"): 1,
        ("run", "recorded"): 1,
    }
    assert told["stepwell_leases_lost_total"] == {("RUN_ENDED",): 1, ("session expired",): 0}
    assert told.keys() >= AT_REST
    assert told["stepwell_calls_total"]["INVALID_ARGUMENT", "RunService/GetRun"] == 1
    assert told["stepwell_calls_total"]["OK", "RunService/StartRun"] == 2
    assert told["stepwell_call_seconds_count"]["RunService/StartRun",] == 2
    assert told["stepwell_backlog_stranded_tasks"] == {("run", "main", "nobody's"): 1}
    assert told["stepwell_ready"] == {(): 1}
    assert told["stepwell_capacity_stated"] == {("activity",): 5, ("run",): 5, ("resident",): 100}
    assert told["stepwell_backlog_tasks"] == {("run", "main", "nobody's"): 1}
    assert (told["stepwell_streams"], told["stepwell_leader"]) == ({(): 1}, {(): 1})


# --- the backlog ------------------------------------------------------------------------------------------------------


def backlog() -> dict[tuple[str, ...], float]:
    """The gauge, by its labels as declared."""
    (family,) = metrics.backlog_tasks.collect()
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


async def test_who_stops_leading_tells_of_no_backlog(database_url: str) -> None:
    """Another does; what has become empty meanwhile must not stand there for ever."""
    async with rigged(database_url) as rig:
        await rig.start()
        gauges = Backlog(rig.connection, Crews(rig.database, rig.clock), rig.clock, 60.0)
        assert await gauges.run_once() == 1
        assert backlog() == {("main", "q", "run"): 1}
        await rig.claim(await rig.open_session())
        await rig.start(task_queue="other")
        await gauges.run_once()
        assert backlog() == {("main", "other", "run"): 1}
        await gauges.stop()
        assert backlog() == {}


async def test_what_nobody_takes_is_stranded(database_url: str) -> None:
    """Of a type and a build, by the workers of the queue; those of outside engines need not be known."""
    async with rigged(database_url) as rig:
        gauges = Backlog(rig.connection, Crews(rig.database, rig.clock), rig.clock, 60.0)
        now = rig.clock.now()
        rows = [(1, 1, "t", ""), (2, 1, "t", "v1"), (3, 1, "u", ""), (4, TaskKind.DRIVEN_ACTIVITY, "t", "")]
        for key, kind, type_name, build in rows:
            task = (key, 0, 1, "q", int(kind), type_name, 0, now, build)
            await rig.sql.execute("INSERT INTO tasks VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)", *task)
        session_id = await rig.open_session()
        hello = pack_hello(Hello("w", ("q",), ("t",)))
        await rig.sql.execute("UPDATE sessions SET hello = $2 WHERE session_id = $1", session_id, hello)
        await gauges.run_once()
        (family,) = metrics.backlog_stranded.collect()
        told = {tuple(sample.labels.values()): sample.value for sample in family.samples}
        assert told == {("main", "q", "run"): 2, ("main", "q", "driven_activity"): 0}
        await gauges.stop()


def test_very_many_queues_make_few_labels() -> None:
    """The longest are told one by one, and of all others that they are there."""
    metrics.set_backlog({("main", f"q{number}", "run"): (number, float(number), 1) for number in range(1, 301)})
    told = backlog()
    assert len(told) == 101
    assert told["main", "q300", "run"] == 300
    assert told["_others", "_others", "run"] == sum(range(1, 201))
    (stranded,) = metrics.backlog_stranded.collect()
    assert sum(each.value for each in stranded.samples) == 300
    (ages,) = metrics.backlog_age.collect()
    assert max(each.value for each in ages.samples if each.labels["task_queue"] == "_others") == 200
    metrics.set_backlog({})
    assert backlog() == {}


# --- rounds -----------------------------------------------------------------------------------------------------------


class Turns(Loop):
    """Fails every second time."""

    name = "turns"

    def __init__(self) -> None:
        super().__init__(60.0)
        self.count = 0

    async def run_once(self) -> int:
        self.count += 1
        if self.count % 2:
            raise Lost("away")
        return 0


async def test_rounds_are_counted_and_only_a_good_one_is_the_last() -> None:
    """What fails again and again shows as a duty that stands still."""
    turns = Turns()
    await turns._round()
    assert metrics.round_time.labels("turns")._value.get() == 0
    await turns._round()
    good = metrics.round_time.labels("turns")._value.get()
    assert good > 0
    await turns._round()
    assert metrics.round_time.labels("turns")._value.get() == good
    counts = {outcome: metrics.rounds.labels("turns", outcome)._value.get() for outcome in ("done", "failed")}
    assert counts == {"done": 1, "failed": 2}


# --- calls ------------------------------------------------------------------------------------------------------------


def test_durations_are_told_as_prometheus_wants_them() -> None:
    """A bucket holds its bound, and all below; what was asked to wait is counted, and has no duration."""
    tally = calls.tallies.of("TestService/Call")
    for seconds in (0.0001, 0.001, 0.0011, 10.0, 11.0):
        tally.count("OK", seconds)
    tally.count("CANCELLED", None)
    counted, lasted = calls.tallies.collect()
    mine = [each for each in counted.samples if each.labels["method"] == "TestService/Call"]
    assert {each.labels["code"]: each.value for each in mine} == {"OK": 5, "CANCELLED": 1}
    told = {
        (each.name.rpartition("_")[2], each.labels.get("le", "")): each.value
        for each in lasted.samples
        if each.labels["method"] == "TestService/Call"
    }
    assert [told["bucket", le] for le in ("0.001", "0.0025", "5.0", "10.0", "+Inf")] == [2, 3, 3, 4, 5]
    assert (told["count", ""], round(told["sum", ""], 4)) == (5, 21.0022)


async def test_a_call_that_its_caller_gives_up_is_counted_as_cancelled(database_url: str) -> None:
    tally = calls.tallies.of("RunService/WaitRun")
    before = tally.codes.get("CANCELLED", 0)
    async with replica(database_url) as one:
        waiting = one.runs.WaitRun(runs_pb2.WaitRunRequest(run_id=await one.start()))
        await until(lambda: one.service.watches._waits)
        waiting.cancel()
        await until(lambda: tally.codes.get("CANCELLED", 0) == before + 1)
