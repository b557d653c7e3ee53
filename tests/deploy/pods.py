"""Containers of rendered pods as processes of this machine, and probes as the kubelet makes them.

A process gets the container's command and its environment, and nothing of ours: variables of the image, of ConfigMaps,
of secrets that a test lends, each in its order. What a machine has one of is exchanged: ports, and the folders of
volumes.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.chaos.kit import free_port
from tests.deploy.chart import ROOT, Object, Rendered

Secrets = Mapping[str, Mapping[str, str]]
_REFERENCE = re.compile(r"\$\((\w+)\)")
_HOSTS = ("0.0.0.0", "::")  # noqa: S104 - what a pod listens on
SECONDS = 60.0


def image_environment() -> dict[str, str]:
    """What the image sets."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    (told,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return dict(each.split("=", 1) for each in told.split()) | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


@dataclass
class Machine:
    """What stands for what on this machine: ports for containers' ports, folders for mounts."""

    rendered: Rendered
    secrets: Secrets
    folder: Path
    ports: dict[int, int] = field(default_factory=dict)
    mounts: dict[str, Path] = field(default_factory=dict)

    def port(self, number: int) -> int:
        """The local port of a container's."""
        if number not in self.ports:
            self.ports[number] = free_port()
        return self.ports[number]

    def mount(self, pod: Object, container: Object) -> None:
        """Lays the volumes of ConfigMaps and secrets as folders."""
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mounted in container["volumeMounts"]:
            content = self._content(volumes[mounted["name"]])
            if content is None:
                continue
            folder = self.folder / mounted["mountPath"].strip("/").replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in content.items():
                (folder / name).write_text(text)
            self.mounts[mounted["mountPath"]] = folder

    def _content(self, volume: Object) -> dict[str, str] | None:
        if "configMap" in volume:
            return dict(self.rendered.one("ConfigMap", volume["configMap"]["name"])["data"])
        if "secret" in volume:
            secret = self.secrets[volume["secret"]["secretName"]]
            items = volume["secret"].get("items") or [{"key": key, "path": key} for key in secret]
            return {item["path"]: secret[item["key"]] for item in items}
        return None

    def environment(self, container: Object) -> dict[str, str]:
        """The variables of a container."""
        told: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            told |= self.rendered.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for each in container.get("env", ()):
            told[each["name"]] = self._value(each, told)
        local = {name: self._local(name, value) for name, value in told.items()}
        return {**image_environment(), **local}

    def _value(self, variable: Object, told: Mapping[str, str]) -> str:
        if "value" in variable:
            return _REFERENCE.sub(lambda found: told.get(found[1], found[0]), str(variable["value"]))
        source = variable["valueFrom"]
        if "fieldRef" in source:
            return "a-pod"
        wanted = source["secretKeyRef"]
        return self.secrets[wanted["name"]][wanted["key"]]

    def _local(self, name: str, value: str) -> str:
        if name.endswith("_PORT") and value.isdecimal():
            return str(self.port(int(value)))
        return "127.0.0.1" if value in _HOSTS else self.path(value)

    def path(self, text: str) -> str:
        """A path within a mount as it is here."""
        for mount, folder in self.mounts.items():
            if text == mount or text.startswith(f"{mount}/"):
                return str(folder) + text.removeprefix(mount)
        return text

    @asynccontextmanager
    async def running(self, pod: Object, container: Object, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A container while it runs; killed if it is left so."""
        self.mount(pod, container)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(self.path(each) for each in (*container["command"], *container["args"])),
            env={**self.environment(container), **more},
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
            await process.communicate()

    async def outcome(self, pod: Object, container: Object, **more: str) -> tuple[int, str]:
        """A container's exit code, and what it said."""
        async with self.running(pod, container, **more) as process, asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, said.decode()

    async def probe(self, probe: Mapping[str, Any]) -> bool:
        """Whether a probe succeeds now: its service is SERVING, said in the clear and in time."""
        asked = probe["grpc"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port(asked['port'])}") as channel:
            request = health_pb2.HealthCheckRequest(service=asked["service"])
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=probe["timeoutSeconds"])
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def passes(self, probe: Mapping[str, Any]) -> None:
        """Waits until a probe succeeds, as long as the kubelet does before it gives up."""
        async with asyncio.timeout(max(SECONDS / 2, probe["periodSeconds"] * probe["failureThreshold"])):
            while not await self.probe(probe):  # noqa: ASYNC110 - as the kubelet does
                await asyncio.sleep(0.05)


async def ended(process: asyncio.subprocess.Process, seconds: float) -> int:
    """The exit code of a process that was told to end, within its grace."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(seconds):
        await process.communicate()
    assert process.returncode is not None
    return process.returncode
