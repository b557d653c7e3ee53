"""What a whole run with one activity costs: runs a second beside `pgbench -N` on the same durable Postgres.

    .venv/bin/python bench/one_activity.py [--runs 6000] [--callers 500] [--output json]

Service, worker, load and Postgres share the machine. Each run is started by a call of its own (the SDK puts concurrent
ones together), does one activity, and is counted when its end is in the database. The baseline is run before and after;
read the ratio, not the figure. This is a first look; it has no targets yet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from stepwell import Client, Context, Worker, activity, workflow
from stepwell_server.embedded import EmbeddedPostgres
from stepwell_server.store.migrations import migrate

QUEUE = "bench"
PAYLOAD = {"text": "x" * 80}


@activity
async def echo(value: dict[str, str]) -> dict[str, str]:
    """The activity: nothing at all."""
    return value


@workflow
async def once(ctx: Context, value: dict[str, str]) -> dict[str, str]:
    """The workflow: one activity."""
    return await ctx.activity(echo, value)


async def work(port: int) -> None:
    """The worker's process."""
    async with await Client.connect(f"127.0.0.1:{port}") as client:
        worker = Worker(client, QUEUE, workflows=[once], activities=[echo], max_activities=1000, max_runs=1000)
        await worker.run()


def pgbench(postgres: EmbeddedPostgres, *arguments: str) -> float:
    """Transactions a second, or 0 when it only prepares."""
    program = Path(f"/proc/{postgres.pid}/exe").readlink().with_name("pgbench")
    command = [str(program), *arguments, postgres.tcp_url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [line for line in printed.splitlines() if line.startswith("tps = ")]
    return float(found[0].split()[2]) if found else 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(client: Client, runs: int, callers: int) -> float:
    """Starts runs one by one from many callers, and waits for each; answers the seconds."""
    left = iter(range(runs))

    async def caller() -> None:
        for _ in left:
            handle = await client.start_run(once, PAYLOAD, task_queue=QUEUE)
            await handle.result()

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.monotonic() - began


def start(command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process beside this one."""
    return subprocess.Popen(command, env=environment)


async def measure(folder: Path, runs: int, callers: int) -> dict[str, float]:
    """The whole measurement."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    async with EmbeddedPostgres(folder / "data", extra={"shared_buffers": "2GB", "max_wal_size": "8GB"}) as postgres:
        await migrate(postgres.url)
        pgbench(postgres, "-i", "-q", "-s", "20")
        baseline = ["-N", "-M", "prepared", "-c", "8", "-j", "2", "-T", "5"]
        base_before = pgbench(postgres, *baseline)
        environment = os.environ | {"STEPWELL_DATABASE_URL": postgres.url, "STEPWELL_LOG_LEVEL": "warning"}
        environment["STEPWELL_REQUIRE_KEYS"] = "false"
        serve = [str(Path(sys.executable).with_name("stepwell-server")), "serve", "--port", str(port)]
        service, worker = start(serve, environment), start([sys.executable, __file__, "--work", str(port)])
        try:
            async with await Client.connect(f"127.0.0.1:{port}", connect_timeout=30) as client:
                await load(client, callers, callers)
                connection = await asyncpg.connect(postgres.url)
                wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
                commits = await connection.fetchval("SELECT sum(xact_commit) FROM pg_stat_database")
                used = [cpu_seconds(service.pid), cpu_seconds(worker.pid), time.process_time()]
                seconds = await load(client, runs, callers)
                now = [cpu_seconds(service.pid), cpu_seconds(worker.pid), time.process_time()]
                used = [after - before for after, before in zip(now, used, strict=True)]
                written = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
                await asyncio.sleep(1.1)  # the server's statistics come with a delay
                commits = await connection.fetchval("SELECT sum(xact_commit) FROM pg_stat_database") - commits
                ended = await connection.fetchval("SELECT count(*) FROM stepwell.closed_runs WHERE phase = 4")
                await connection.close()
        finally:
            for process in (worker, service):
                process.terminate()
                process.wait(20)
        base_after = pgbench(postgres, *baseline)
    if ended != runs + callers:
        raise SystemExit(f"{ended} runs are recorded as completed, not {runs + callers}")
    base = statistics.mean([base_before, base_after])
    return {
        "runs_a_second": runs / seconds,
        "pgbench_before": base_before,
        "pgbench_after": base_after,
        "ratio": runs / seconds / base,
        "commits_a_run": float(commits) / runs,
        "wal_bytes_a_run": float(written) / runs,
        "service_cpu_us_a_run": used[0] / runs * 1e6,
        "worker_cpu_us_a_run": used[1] / runs * 1e6,
        "load_cpu_us_a_run": used[2] / runs * 1e6,
    }


def main() -> None:
    """Reads the options and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=6000)
    parser.add_argument("--callers", type=int, default=500)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    if options.work:
        asyncio.run(work(options.work))
        return
    folder = Path(tempfile.mkdtemp(prefix="stepwell-bench-"))
    # An unprivileged Postgres must be able to pass, when this is run as root.
    folder.chmod(0o711)
    figures = asyncio.run(measure(folder, options.runs, options.callers))
    if options.output == "json":
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<22} {value:12,.2f}")


if __name__ == "__main__":
    main()
