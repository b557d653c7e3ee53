"""What a job costs, from its start to its end: jobs a second beside `pgbench -N` on the same durable Postgres.

    .venv/bin/python -m bench.one_job [--jobs 6000] [--callers 500] [--output json]

As `one_activity.py`, for an activity without a run. Each job is started by a call of its own (the SDK puts concurrent
ones together), does nothing, and is counted when its end is in the database. Statements are counted by Postgres' log
afterwards, over jobs of their own, since a log costs time. The baseline is run before and after; read the ratio, not
the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
from bench.one_activity import PAYLOAD, QUEUE, cpu_seconds, echo, pgbench, start

from stepwell import Client, Worker
from stepwell_server.embedded import EmbeddedPostgres
from stepwell_server.store.migrations import migrate

_STATEMENT = re.compile(rb" LOG:  (?:execute [^\n]*?|statement): ")


async def work(port: int) -> None:
    """The worker's process."""
    async with await Client.connect(f"127.0.0.1:{port}") as client:
        await Worker(client, QUEUE, activities=[echo], max_activities=1000).run()


async def load(client: Client, jobs: int, callers: int) -> float:
    """Starts jobs one by one from many callers, and waits for each; answers the seconds."""
    left = iter(range(jobs))

    async def caller() -> None:
        for _ in left:
            job = await client.start_job(echo, PAYLOAD, task_queue=QUEUE)
            await job.result()

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.monotonic() - began


def logged(log: Path, position: int) -> int:
    """How many statements Postgres has logged since a position of its log."""
    with log.open("rb") as file:
        file.seek(position)
        return len(_STATEMENT.findall(file.read()))


async def count_statements(connection: asyncpg.Connection, log: Path, client: Client, jobs: int, callers: int) -> float:
    """Statements that Postgres carries out for a job, BEGIN and COMMIT among them; those that look for work too."""
    await connection.execute("ALTER SYSTEM SET log_statement = 'all'")
    await connection.execute("SELECT pg_reload_conf()")
    await asyncio.sleep(0.5)  # each backend hears of it with its next statement
    await load(client, callers, callers)
    position = await asyncio.to_thread(os.path.getsize, log)
    await load(client, jobs, callers)
    executed = await asyncio.to_thread(logged, log, position)
    await connection.execute("ALTER SYSTEM RESET log_statement")
    await connection.execute("SELECT pg_reload_conf()")
    return executed / jobs


async def measure(folder: Path, jobs: int, callers: int) -> dict[str, float]:
    """The whole measurement."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    data = folder / "data"
    async with EmbeddedPostgres(data, extra={"shared_buffers": "2GB", "max_wal_size": "8GB"}) as postgres:
        await migrate(postgres.url)
        pgbench(postgres, "-i", "-q", "-s", "20")
        baseline = ["-N", "-M", "prepared", "-c", "8", "-j", "2", "-T", "5"]
        base_before = pgbench(postgres, *baseline)
        environment = os.environ | {"STEPWELL_DATABASE_URL": postgres.url, "STEPWELL_LOG_LEVEL": "warning"}
        environment["STEPWELL_REQUIRE_KEYS"] = "false"
        serve = [str(Path(sys.executable).with_name("stepwell-server")), "serve", "--port", str(port)]
        service, worker = start(serve, environment), start([sys.executable, "-m", "bench.one_job", "--work", str(port)])
        try:
            async with await Client.connect(f"127.0.0.1:{port}", connect_timeout=30) as client:
                await load(client, callers, callers)
                connection = await asyncpg.connect(postgres.url)
                wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
                commits = await connection.fetchval("SELECT sum(xact_commit) FROM pg_stat_database")
                used = [cpu_seconds(service.pid), cpu_seconds(worker.pid), time.process_time()]
                seconds = await load(client, jobs, callers)
                now = [cpu_seconds(service.pid), cpu_seconds(worker.pid), time.process_time()]
                used = [after - before for after, before in zip(now, used, strict=True)]
                written = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
                await asyncio.sleep(1.1)  # the server's statistics come with a delay
                commits = await connection.fetchval("SELECT sum(xact_commit) FROM pg_stat_database") - commits
                ended = await connection.fetchval("SELECT count(*) FROM stepwell.closed_jobs WHERE state = 4")
                executed = await count_statements(connection, data / "postgres.log", client, jobs, callers)
                await connection.close()
        finally:
            for process in (worker, service):
                process.terminate()
                process.wait(20)
        base_after = pgbench(postgres, *baseline)
    if ended != jobs + callers:
        raise SystemExit(f"{ended} jobs are recorded as completed, not {jobs + callers}")
    base = statistics.mean([base_before, base_after])
    return {
        "jobs_a_second": jobs / seconds,
        "pgbench_before": base_before,
        "pgbench_after": base_after,
        "ratio": jobs / seconds / base,
        "commits_a_job": float(commits) / jobs,
        "statements_a_job": executed,
        "wal_bytes_a_job": float(written) / jobs,
        "service_cpu_us_a_job": used[0] / jobs * 1e6,
        "worker_cpu_us_a_job": used[1] / jobs * 1e6,
        "load_cpu_us_a_job": used[2] / jobs * 1e6,
        "load_of_the_machine": os.getloadavg()[0],
    }


def main() -> None:
    """Reads the options and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=6000)
    parser.add_argument("--callers", type=int, default=500)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    if options.work:
        asyncio.run(work(options.work))
        return
    folder = Path(tempfile.mkdtemp(prefix="stepwell-bench-"))
    # An unprivileged Postgres must be able to pass, when this is run as root.
    folder.chmod(0o711)
    figures = asyncio.run(measure(folder, options.jobs, options.callers))
    if options.output == "json":
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<22} {value:12,.2f}")


if __name__ == "__main__":
    main()
