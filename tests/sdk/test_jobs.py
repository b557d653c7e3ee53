"""Jobs by the client, without asyncio too, and by the command, on the real service with a worker that knows of none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests import warm
from tests.stream.kit import replica, until

from stepwell import ApplicationError, Client, JobFailed, RetryPolicy, activity, errors, reasons, sync
from stepwell.v1 import jobs_pb2

Working = Callable[..., Any]
ONCE = RetryPolicy(maximum_attempts=1)


@pytest_asyncio.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    async with replica(database_url) as made, await Client.connect(made.service.address) as connected:
        yield connected


@dataclass
class Order:
    name: str
    count: int


@dataclass
class Receipt:
    order: str
    job_id: str
    attempt: int


@activity(retry=ONCE, start_to_close=60, task_queue="tests")
async def book(order: Order) -> Receipt:
    """Says who it is: a job, and no run."""
    info = activity.info()
    assert (info.run_id, info.workflow_id, info.step_name) == ("", "", "")
    if order.count < 1:
        raise ValueError(f"{order.count} of {order.name}")
    return Receipt(order.name, info.job_id, info.attempt)


def counted(client: Client) -> Counter[str]:
    """How often the client calls what about jobs, from now on."""
    calls: Counter[str] = Counter()

    def count(name: str, method: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return method(*arguments, **more)

        return call

    for name, method in vars(client.job_stub).items():
        setattr(client.job_stub, name, count(name, method))
    return calls


async def test_types_and_options_are_those_of_the_function(client: Client, working: Working) -> None:
    async with working(activities=[book]):
        handle = await client.start_job(book, Order("pen", 2), unique_key="pen", correlation_id="c", retention=60)
        receipt = await handle.result()
        assert receipt == Receipt("pen", handle.job_id, 1)
        job = await client.job(handle.job_id).describe()
    assert (job.unique_key, job.correlation_id, job.task_queue) == ("pen", "c", "tests")
    assert (job.retry.maximum_attempts, job.start_to_close_timeout.seconds, job.retention.seconds) == (1, 60, 60)
    later = await client.start_job("book", start_delay=60, task_queue="q", priority=7, heartbeat_timeout=5)
    job = await later.describe()
    assert (job.task_queue, job.priority, job.heartbeat_timeout.seconds) == ("q", 7, 5)
    assert job.schedule_time.seconds - job.create_time.seconds == 60
    assert not job.retry.maximum_attempts


async def test_jobs_at_once_share_calls_and_a_watch(client: Client, working: Working) -> None:
    async with working(activities=[book]):
        await (await client.start_job(book, Order("first", 1))).result()
        calls = counted(client)
        handles = await asyncio.gather(*(client.start_job(book, Order(str(n), 1)) for n in range(100)))
        receipts = await asyncio.gather(*(handle.result() for handle in handles))
    assert [each.order for each in receipts] == [str(n) for n in range(100)]
    assert calls["BatchStartJobs"] <= 4
    assert set(calls) == {"BatchStartJobs"}, "the watch was live before, and tells of all ends"


async def test_one_unique_key_is_one_open_job(client: Client, working: Working) -> None:
    first = await client.start_job(book, Order("pen", 1), unique_key="k")
    with pytest.raises(reasons.UniqueKeyInUse) as told:
        await client.start_job(book, Order("ink", 1), unique_key="k")
    assert told.value.metadata["job_id"] == first.job_id
    found = await client.start_job(book, Order("ink", 1), unique_key="k", conflict="use_existing")
    assert (found.job_id, found.started, first.started) == (first.job_id, False, True)
    async with working(activities=[book]):
        assert (await found.result()).order == "pen"
        second = await client.start_job(book, Order("ink", 1), unique_key="k")
        assert (await second.result()).order == "ink"
    with pytest.raises(reasons.JobExists):
        await client.start_job(book, Order("ink", 1), unique_key="k", reuse="reject")
    with pytest.raises(reasons.JobNotFound):
        await client.job(str(uuid.uuid4())).result()


async def test_a_repeat_finds_what_the_first_made(client: Client) -> None:
    first = await client.start_job(book, Order("pen", 1), request_id="r", unique_key="k")
    again = await client.start_job(book, Order("pen", 1), request_id="r", unique_key="k")
    assert (again.job_id, again.started) == (first.job_id, False)
    with pytest.raises(reasons.RequestIdReused):
        await client.start_job(book, Order("ink", 1), request_id="r", unique_key="k")


async def test_a_failed_job_is_retried_and_waited_for_again(client: Client, working: Working) -> None:
    """Whoever waits after the retry hears of the second end, also by a handle that had heard of the first."""
    attempts = 0

    @activity(retry=ONCE)
    def moody() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ApplicationError("not now", details={"attempt": attempts})
        return attempts

    async with working(activities=[moody]):
        handle = await client.start_job(moody, task_queue="tests")
        with pytest.raises(JobFailed, match="is FAILED: ApplicationError: not now") as told:
            await handle.result()
        assert (told.value.state, told.value.reason) == ("FAILED", "JOB_FAILED")
        other = client.job(handle.job_id, as_type=int)
        with pytest.raises(JobFailed):
            await other.result()
        await handle.retry()
        with pytest.raises(JobFailed):
            await handle.result()
        assert (await handle.describe()).retry_count == 1
        await handle.retry()
        assert await handle.result() == 3
        assert await other.result() == 3
    with pytest.raises(reasons.JobNotFailed):
        await handle.retry()
    assert (await handle.describe()).last_failure.message == "not now"


async def test_a_running_job_is_asked_to_stop(client: Client, working: Working) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    @activity
    async def waits() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    handle = await client.start_job(waits, task_queue="tests")
    async with working(activities=[waits]):
        await begun.wait()
        assert await handle.cancel("enough")
        assert not await handle.cancel("again")
        with pytest.raises(JobFailed) as told:
            await handle.result()
    assert told.value.state == "CANCELLED"
    assert stopped.is_set()
    assert (await handle.describe()).cancel_request.reason == "enough"


async def test_the_next_attempt_gets_what_the_one_before_told(client: Client, working: Working) -> None:
    @activity(retry=RetryPolicy(initial_interval=0.01))
    def resuming() -> list[Any]:
        info = activity.info()
        if info.attempt == 1:
            activity.heartbeat({"page": 3})
            raise ValueError("again")
        return [info.attempt, info.heartbeat_details]

    async with working(activities=[resuming]):
        handle = await client.start_job(resuming, task_queue="tests")
        assert await handle.result() == [2, {"page": 3}]


async def test_without_a_watch_each_wait_is_a_call(
    client: Client, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(cursor: str) -> Any:
        raise errors.Unimplemented("no watch")

    monkeypatch.setattr(client._job_ends, "stream", refused)
    calls = counted(client)
    async with working(activities=[book]):
        handle = await client.start_job(book, Order("pen", 1))
        assert (await handle.result()).order == "pen"
    assert calls["WaitJob"] + calls["GetJob"] >= 1


async def test_jobs_are_listed_and_their_ends_followed(client: Client, working: Working) -> None:
    ends = client.watch_jobs()
    seen = asyncio.ensure_future(anext(ends))
    ended: list[str] = []
    async with working(activities=[book]):
        while not seen.done():  # it follows from when its stream is live
            handle = await client.start_job(book, Order("pen", len(ended)), unique_key=f"k{len(ended)}")
            with contextlib.suppress(JobFailed):
                await handle.result()
            ended.append(handle.job_id)
            await asyncio.wait([seen], timeout=0.2)
    assert seen.result().job_id in ended
    await ends.aclose()
    await client.start_job("other", task_queue="elsewhere")
    found = [job async for job in client.list_jobs()]
    assert [job.type for job in found] == ["other"] + ["book"] * len(ended)
    assert [job.type async for job in client.list_jobs(states=["pending"])] == ["other"]
    assert [job.job_id async for job in client.list_jobs(unique_key="k0", limit=5)] == ended[:1]
    assert [job async for job in client.list_jobs(states=["failed"], type="book")][-1].job_id == ended[0]


async def test_without_asyncio(client: Client, working: Working) -> None:
    """The sync client has the same."""

    def work() -> None:
        with sync.Client.connect(client.address) as plain:
            handle = plain.start_job(book, Order("pen", 1), unique_key="k")
            assert handle.result(timeout=60).order == "pen"
            assert (handle.started, handle.unique_key) == (True, "k")
            again: sync.JobHandle[Receipt] = plain.job(handle.job_id)
            assert again.describe().state == jobs_pb2.JOB_STATE_COMPLETED
            assert not again.cancel()
            with pytest.raises(reasons.JobNotFailed):
                again.retry()
            assert [job.job_id for job in plain.list_jobs(type="book")] == [handle.job_id]
            waiting = plain.start_job("nobody's")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)

    async with working(activities=[book]):
        await asyncio.to_thread(work)


# --- the command ------------------------------------------------------------------------------------------------------


async def stepwell(client: Client, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        warm.command(), "--address", client.address, "job", *arguments, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_by_the_command(client: Client, working: Working) -> None:
    """As a person would."""
    code, out, err = await stepwell(client, "start", "book", "-i", '{"name": "pen", "count": 0}', "--unique-key", "k",
                                    "--attempts", "1", "--task-queue", "tests", "-o", "json")  # fmt: skip
    assert (code, err) == (0, "")
    started = json.loads(out)
    job_id = started["job_id"]
    assert (started["unique_key"], started["started"]) == ("k", True)
    code, _, err = await stepwell(client, "start", "book", "--unique-key", "k")
    assert (code, "--conflict use_existing" in err) == (1, True)
    code, out, _ = await stepwell(client, "start", "book", "--unique-key", "k", "--conflict", "use_existing")
    assert (code, out.strip()) == (0, f"job {job_id} was there already")
    code, _, err = await stepwell(client, "wait", job_id, "--timeout", "0.1")
    assert (code, "has not ended within 0.1 s" in err) == (2, True)
    async with working(activities=[book]):
        code, _, err = await stepwell(client, "wait", job_id)
        assert (code, "ValueError: 0 of pen" in err) == (1, True)
        code, out, _ = await stepwell(client, "wait", job_id, "-o", "json")
        assert (code, json.loads(out)["failure"]["type"]) == (1, "ValueError")
        code, out, _ = await stepwell(client, "retry", job_id)
        assert (code, out.strip()) == (0, "the job begins anew")
        await until(client.job(job_id).describe, lambda job: job.state == jobs_pb2.JOB_STATE_FAILED)
        done = ("start", "book", "--wait", "--task-queue", "tests", "-o", "json", "-i", '{"name": "ink", "count": 1}')
        code, out, _ = await stepwell(client, *done)
        assert (code, json.loads(out)["result"]["order"]) == (0, "ink")
    code, out, _ = await stepwell(client, "list", "--state", "failed")
    assert (code, out.splitlines()[1].split()[:4]) == (0, [job_id, "k", "book", "FAILED"])
    code, out, _ = await stepwell(client, "list", "-o", "json", "--limit", "1")
    assert json.loads(out)[0]["state"] == "JOB_STATE_COMPLETED"
    code, out, _ = await stepwell(client, "show", job_id)
    assert {"retries", "failure", "kept", "input"} <= set(out.split())
    later = json.loads((await stepwell(client, "start", "book", "--delay", "60", "-o", "json"))[1])["job_id"]
    code, out, _ = await stepwell(client, "cancel", later, "--reason", "why")
    assert (code, out.strip()) == (0, "cancellation was asked for")
    code, out, _ = await stepwell(client, "show", later, "-o", "json")
    assert (json.loads(out)["state"], json.loads(out)["cancel_request"]["reason"]) == ("JOB_STATE_CANCELLED", "why")


async def test_what_is_wrong_is_told(client: Client) -> None:
    for arguments, text in (
        (("show", str(uuid.uuid4())), "stepwell job list"),
        (("show", "k"), "k is no job id"),
        (("start", "book", "--conflict", "none"), "use_existing"),
        (("start", "book", "--job-id", "x"), "--job-id takes a UUID"),
        (("list", "--state", "odd"), "PENDING, RUNNING, COMPLETED, FAILED, CANCELLED"),
    ):
        code, out, err = await stepwell(client, *arguments)
        assert (code, out) == (1, ""), arguments
        assert text in err
