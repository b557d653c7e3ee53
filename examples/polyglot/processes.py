"""The processes of the demo: the service with its own Postgres, and a worker in each language."""

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
    "STEPWELL_SESSION_SECONDS": "6",
    "STEPWELL_HEARTBEAT_SECONDS": "1",
    "STEPWELL_ACK_SECONDS": "5",
    "STEPWELL_LOG_LEVEL": "warning",
}
LEAVING = 15.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stage:
    """Everything that runs, below one folder. All spans go by OTLP to `collector`, an address."""

    def __init__(self, folder: Path, collector: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.data = folder / "data"
        self.log = folder / "log.txt"
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.commands: dict[str, tuple[str, ...]] = {"python": (sys.executable, str(HERE / "python" / "worker.py"))}
        without = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "STEPWELL_"))}
        # Soon, so that a kill takes few spans along.
        self.environment = without | exporting(collector) | {"OTEL_BSP_SCHEDULE_DELAY": "200"}

    def start_server(self) -> None:
        """Starts the service."""
        command = [str(Path(sys.executable).with_name("stepwell-server")), "dev"]
        command += ["--port", self.address.rpartition(":")[2], "--data-dir", str(self.data)]
        self.server = self._start(command, TERMS)

    def start_worker(self, language: str) -> subprocess.Popen[bytes]:
        """Starts the worker of a language; its spans are of the service `polyglot-<language>`."""
        named = {"STEPWELL_ADDRESS": self.address, "OTEL_SERVICE_NAME": f"polyglot-{language}"}
        self.workers[language] = self._start(self.commands[language], named)
        return self.workers[language]

    def _start(self, command: list[str] | tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment | environment)

    def ended(self) -> list[str]:
        """Who has ended though nobody asked."""
        everybody = {"the service": self.server, **{f"the {name} worker": each for name, each in self.workers.items()}}
        return [name for name, each in everybody.items() if each is not None and each.poll() is not None]

    def freeze(self, language: str) -> None:
        """Stops a worker where it is."""
        self.workers[language].send_signal(signal.SIGSTOP)

    def thaw(self, language: str) -> None:
        """Lets it go on."""
        self.workers[language].send_signal(signal.SIGCONT)

    def kill(self, language: str) -> int:
        """Kills a worker, as a power cut would. Gives its process id."""
        worker = self.workers.pop(language)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        return worker.pid

    async def close(self) -> None:
        """Lets everybody leave in order, workers first, so that all have sent their spans; who does not is made to."""
        for group in (list(self.workers.values()), [self.server]):
            leaving = [each for each in group if each is not None]
            for process in leaving:
                process.terminate()
            await asyncio.gather(*(asyncio.to_thread(_await, process) for process in leaving))

    def end(self) -> None:
        """Ends what is left."""
        for process in [*self.workers.values(), self.server]:
            if process is not None and process.poll() is None:
                process.terminate()
                # A frozen one hears nothing.
                process.send_signal(signal.SIGCONT)
                _await(process)


def _await(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LEAVING)
    if process.poll() is None:
        process.kill()
        process.wait()


def exporting(collector: str) -> dict[str, str]:
    """The standard variables that send spans to an address."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_TRACES_EXPORTER": "otlp",
    }
