"""What the chart starts, started here: migrations, the service with its probes and its end, the test's workflow."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from tests.certificates import Authority
from tests.deploy.chart import CASES, CHART, render, tool
from tests.deploy.pods import Machine, ended

from stepwell_server.settings import Settings
from stepwell_server.store.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LEAST = {"database": {"existingSecret": "stepwell-database"}}
KEYS = {"helmTest": {"existingSecret": "keys"}}
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
PASSWORD = "p@ss/w:rd%#?"


def database(url: str) -> dict[str, dict[str, str]]:
    """The secret that names the database."""
    return {"stepwell-database": {"url": url}}


@asynccontextmanager
async def serving(machine: Machine) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service's container once all its probes have passed."""
    container = machine.rendered.server()
    async with machine.running(machine.rendered.pod(), container) as process:
        try:
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                await machine.passes(container[name])
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
            raise AssertionError(f"its {name} does not pass: {said.decode()}") from None
        yield process


async def make_key(machine: Machine, role: str) -> str:
    """A key, made in the service's container as `kubectl exec` would."""
    maker = ["stepwell-server", "keys", "create", "--role", role, "--label", role, "--output", "json"]
    container = {**machine.rendered.server(), "command": maker[:1], "args": maker[1:]}
    code, said = await machine.outcome(machine.rendered.pod(), container)
    assert code == 0, said
    return str(json.loads(said)["secret"])


async def run_workflow(machine: Machine) -> None:
    """Runs the test's pod beside a service."""
    (pod,) = machine.rendered.all("Pod")
    (container,) = pod["spec"]["containers"]
    address = f"127.0.0.1:{machine.port(7233)}"
    code, said = await machine.outcome(pod["spec"], container, STEPWELL_ADDRESS=address)
    assert code == 0, said
    assert "ended as it should" in said


async def test_migrations_run_twice(empty_database_url: str, tmp_path: Path) -> None:
    rendered = render(LEAST)
    pod = rendered.one("Job", "stepwell-migrations")["spec"]["template"]["spec"]
    machine = Machine(rendered, database(empty_database_url), tmp_path)
    for _ in range(2):
        code, said = await machine.outcome(pod, pod["containers"][0])
        assert code == 0, said
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM stepwell.runs") == 0
    finally:
        await connection.close()


async def test_an_init_container_migrates_a_schema_of_its_own(empty_database_url: str, tmp_path: Path) -> None:
    rendered = render(LEAST, {"migrations": {"mode": "initContainer"}, "database": {"schema": "wells"}})
    (container,) = rendered.pod()["initContainers"]
    code, said = await Machine(rendered, database(empty_database_url), tmp_path).outcome(rendered.pod(), container)
    assert code == 0, said
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM wells.runs") == 0
    finally:
        await connection.close()


async def test_a_release_runs_a_workflow_and_ends_in_its_grace(database_url: str, tmp_path: Path) -> None:
    secrets = {**database(database_url), "keys": {}}
    machine = Machine(render(LEAST, KEYS), secrets, tmp_path)
    async with serving(machine) as process:
        secrets["keys"] = {"client": await make_key(machine, "client"), "worker": await make_key(machine, "worker")}
        await run_workflow(machine)
        assert await ended(process, machine.rendered.pod()["terminationGracePeriodSeconds"]) == 0


async def test_a_worker_stream_does_not_hold_up_the_end(database_url: str, tmp_path: Path) -> None:
    """The pod has its whole grace, less what the pause before took."""
    rendered = render(LEAST, {"auth": {"requireKeys": False}, "shutdownSeconds": 3})
    machine = Machine(rendered, database(database_url), tmp_path)
    pause = rendered.server()["lifecycle"]["preStop"]["sleep"]["seconds"]
    async with serving(machine) as process:
        await run_workflow(machine)
        assert await ended(process, rendered.pod()["terminationGracePeriodSeconds"] - pause) == 0


async def test_a_pod_that_waits_for_its_database_is_not_killed(tmp_path: Path) -> None:
    rendered = render(LEAST)
    machine = Machine(rendered, database(NOWHERE), tmp_path)
    container = rendered.server()
    async with machine.running(rendered.pod(), container) as process:
        await machine.passes(container["startupProbe"])
        await machine.passes(container["livenessProbe"])
        assert not await machine.probe(container["readinessProbe"])
        assert await ended(process, rendered.pod()["terminationGracePeriodSeconds"]) == 0


async def test_with_tls_probes_have_a_port_in_the_clear(database_url: str, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue()
    certificate = {"ca.crt": authority.certificate, "tls.crt": pair.certificate, "tls.key": pair.key}
    secrets: dict[str, dict[str, str]] = {
        **database(database_url),
        "stepwell-tls": {name: value.decode() for name, value in certificate.items()},
        "callers-ca": {"ca.crt": authority.certificate.decode()},
        "keys": {},
    }
    tls = {
        "enabled": True,
        "existingSecret": "stepwell-tls",
        "clientCA": {"existingSecret": "callers-ca"},
    }
    machine = Machine(render(LEAST, KEYS, {"tls": tls, "helmTest": {"tlsSecret": "stepwell-tls"}}), secrets, tmp_path)
    async with serving(machine) as process:
        secrets["keys"] = {"client": await make_key(machine, "client"), "worker": await make_key(machine, "worker")}
        await run_workflow(machine)
        assert not await machine.probe({"grpc": {"port": 7233, "service": "liveness"}, "timeoutSeconds": 5})
        assert await ended(process, machine.rendered.pod()["terminationGracePeriodSeconds"]) == 0


async def test_addresses_may_be_files(empty_database_url: str, tmp_path: Path) -> None:
    rendered = render(LEAST, {"database": {"asFiles": True, "poolUrlKey": "pool"}})
    pod = rendered.one("Job", "stepwell-migrations")["spec"]["template"]["spec"]
    secrets = {"stepwell-database": {"url": empty_database_url, "pool": empty_database_url}}
    code, said = await Machine(rendered, secrets, tmp_path).outcome(pod, pod["containers"][0])
    assert code == 0, said


async def test_the_pause_before_the_end_needs_no_shell(tmp_path: Path) -> None:
    rendered = render(LEAST, {"preStopSeconds": 0}, version="1.29.0")
    command = rendered.server()["lifecycle"]["preStop"]["exec"]["command"]
    container = {**rendered.server(), "command": command[:1], "args": command[1:]}
    machine = Machine(rendered, database(NOWHERE), tmp_path)
    assert await machine.outcome(rendered.pod(), container) == (0, "")


class Door:
    """A Postgres as far as the password: asks for it in the clear, notes it, and hangs up."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            message = await self._message(reader, 4)
            if message[:4] == (80877103).to_bytes(4, "big"):
                writer.write(b"N")
                message = await self._message(reader, 4)
            words = message[4:].decode().split("\0")
            user = words[words.index("user") + 1]
            writer.write(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
            await reader.readexactly(1)
            password = (await self._message(reader, 4)).rstrip(b"\0").decode()
            self.heard.append((user, password))
        finally:
            writer.close()

    @staticmethod
    async def _message(reader: asyncio.StreamReader, size: int) -> bytes:
        length = int.from_bytes(await reader.readexactly(size), "big")
        return await reader.readexactly(length - size)


async def test_a_password_needs_no_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the driver as it is, of dedicated connections and of the pool."""
    door = Door()
    async with await asyncio.start_server(door, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        direct = {"host": "127.0.0.1", "port": port, "user": "me@tenant"}
        rendered = render(LEAST, {"database": {"direct": direct}})
        machine = Machine(rendered, {"stepwell-database": {"password": PASSWORD}}, tmp_path)
        pod = rendered.one("Job", "stepwell-migrations")["spec"]["template"]["spec"]
        code, said = await machine.outcome(pod, pod["containers"][0])
        assert code == 1
        assert PASSWORD not in said
        for name, value in machine.environment(rendered.server()).items():
            if name.startswith(("STEPWELL_", "PG")):
                monkeypatch.setenv(name, value)
        pool = Database(Settings()).pool
        with pytest.raises(Exception, match=r"."):
            async with pool.connect():
                pass
        await pool.dispose()
    assert len(door.heard) >= 2
    assert set(door.heard) == {("me@tenant", PASSWORD)}


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_settings_are_taken(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is a setting that there is, and has a value that it may have."""
    rendered = render(case)
    told = rendered.one("ConfigMap", rendered.deployment()["metadata"]["name"])["data"]
    known = {f"STEPWELL_{name.upper()}" for name in Settings.model_fields}
    for name, value in told.items():
        assert name.partition("__")[0] in known
        monkeypatch.setenv(name, value)
    Settings()


async def test_notes_say_how_to_make_a_key(database_url: str, tmp_path: Path) -> None:
    """The command of the notes, in the service's container: it answers with a key once, and not again."""
    rendered = render(LEAST)
    text = notes(tmp_path, LEAST).replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if "keys create" in line)
    command = shlex.split(line.partition(" -- ")[2].partition("|")[0])
    container = {**rendered.server(), "command": command[:1], "args": command[1:]}
    machine = Machine(rendered, database(database_url), tmp_path)
    code, said = await machine.outcome(rendered.pod(), container)
    assert code == 0, said
    assert json.loads(said)["secret"].startswith("swk_")
    code, again = await machine.outcome(rendered.pod(), container)
    assert code == 0, again
    assert json.loads(again.splitlines()[0])["secret"] == ""


def test_notes_fit_the_values(tmp_path: Path) -> None:
    plain = notes(tmp_path / "plain", LEAST)
    assert 'grpcurl -plaintext -H "authorization: Bearer $KEY"' in plain
    assert "helmTest.existingSecret" in plain
    full = notes(tmp_path / "full", next(case for case in CASES if case.stem == "full-values"))
    assert "grpcurl -insecure -H" in full
    assert "helm test stepwell --namespace wells" in full
    assert "-cert FILE -key FILE" in full
    bare = notes(tmp_path / "bare", next(case for case in CASES if case.stem == "bare-values"))
    assert "WARNING: auth.requireKeys is false" in bare
    assert "keys create" not in bare
    assert "grpcurl -plaintext -d" in bare


async def test_the_call_of_the_notes_is_answered(database_url: str, tmp_path: Path) -> None:
    machine = Machine(render(LEAST), database(database_url), tmp_path)
    text = notes(tmp_path, LEAST).replace("\\\n", " ")
    (call,) = (line.strip() for line in text.splitlines() if line.strip().startswith("grpcurl "))
    call = call.replace("127.0.0.1:7233", f"127.0.0.1:{machine.port(7233)}").replace("grpcurl", str(tool("grpcurl")), 1)
    async with serving(machine):
        key = await make_key(machine, "admin")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_shell(call, env={"KEY": key}, stdout=pipe, stderr=pipe)
        said, told = await process.communicate()
        assert process.returncode == 0, told
        assert json.loads(said)["started"] is True


def notes(folder: Path, values: Path | dict[str, Any]) -> str:
    """What helm shows after an installation: here as an object, since helm shows it for a cluster only."""
    copy = folder / "chart"
    shutil.copytree(CHART, copy)
    text = (copy / "templates/NOTES.txt").read_text()
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  text: |\n"
    wrapped = f'{{{{- define "notes" }}}}{text}{{{{ end }}}}{head}    {{{{- include "notes" . | nindent 4 }}}}\n'
    (copy / "templates/notes.yaml").write_text(wrapped)
    (copy / "templates/NOTES.txt").unlink()
    return str(render(values, chart=copy).one("ConfigMap", "notes")["data"]["text"])
