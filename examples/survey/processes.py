"""The processes of the demo: the service with its own Postgres, and workers. They are killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Short terms, so that a killed worker's tasks come back in seconds; in production they are 30, 10 and 5.
TERMS = {
    "STEPWELL_SESSION_SECONDS": "9",
    "STEPWELL_HEARTBEAT_SECONDS": "2",
    "STEPWELL_ACK_SECONDS": "8",
    "OTEL_TRACES_EXPORTER": "console",
    "STEPWELL_LOG_LEVEL": "warning",
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stage:
    """Everything that runs, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.effects = folder / "effects.jsonl"
        self.spans = folder / "spans.json"
        self.log = folder / "log.txt"
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_server(self) -> None:
        """Starts the service; its spans go to a file, to be drawn later."""
        command = [str(Path(sys.executable).with_name("stepwell-server")), "dev", "--port", str(self.port)]
        command += ["--data-dir", str(self.folder / "data")]
        with self.spans.open("ab") as out, self.log.open("ab") as log:
            self.server = subprocess.Popen(command, stdout=out, stderr=log, env=os.environ | TERMS)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Starts one more worker."""
        environment = os.environ | {"SURVEY_EFFECTS": str(self.effects)}
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), self.address], stdout=log, stderr=log, env=environment
            )
        self.workers.append(worker)
        return worker

    def kill_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """Kills a worker, as a power cut would."""
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        self.workers.remove(worker)

    def freeze_workers(self) -> None:
        """Stops the workers where they are."""
        for worker in self.workers:
            worker.send_signal(signal.SIGSTOP)

    def thaw_workers(self) -> None:
        """Lets those go on that are left."""
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)

    def kill_server(self) -> None:
        """Kills the service. Its Postgres goes on, and is adopted by the next one."""
        if self.server is not None:
            self.server.send_signal(signal.SIGKILL)
            self.server.wait()

    async def close(self) -> None:
        """Lets everybody leave in order; who does not is made to."""
        for process in [*self.workers, self.server]:
            if process is not None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(process.wait, 10)
                if process.poll() is None:
                    process.kill()
