"""Google Cloud Storage and Azure, as far as writing needs them; S3 is in `test_object_stores`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from stepwell_server import errors
from stepwell_server.model.archive_urls import read_archive_url
from stepwell_server.store import object_stores

RUN = "01890000-0000-7000-8000-000000000001"
MIB = 1024 * 1024
LARGE = 7


class Cloud(BaseHTTPRequestHandler):
    """Objects in one piece, and in several: parts with numbers as Google has them, blocks with names as Azure has."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}
    pieces: ClassVar[dict[str, bytes]] = {}
    signed: ClassVar[list[str]] = []
    refuses: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        body = self._body()
        if self.refuses:
            return self._answer(403)
        asked = self._asked()
        if "partNumber" in asked or asked.get("comp") == "block":
            self.pieces[asked.get("partNumber") or asked["blockid"]] = body
        elif asked.get("comp") == "blocklist":
            names = re.findall(r"<(?:Uncommitted|Latest)>([^<]+)<", body.decode())
            self.objects[self._path()] = b"".join(self.pieces[name] for name in names)
        else:
            self.objects[self._path()] = body
        return self._answer(201)

    def do_POST(self) -> None:
        self._body()
        if "uploads" in self._asked():
            self.pieces.clear()
            begun = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            return self._answer(200, begun)
        self.objects[self._path()] = b"".join(self.pieces[name] for name in sorted(self.pieces, key=int))
        done = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        return self._answer(200, done)

    def _body(self) -> bytes:
        self.signed.append(self.headers.get("Authorization", ""))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _asked(self) -> dict[str, str]:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in query.items()}

    def _answer(self, code: int, body: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Cloud]]:
    """A cloud, and an environment that knows it under both names."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for each in (Cloud.objects, Cloud.pieces, Cloud.signed, Cloud.refuses):
        each.clear()
    at = f"http://127.0.0.1:{server.server_port}"
    account = tmp_path / "account.json"
    nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    account.write_text(json.dumps({"gcs_base_url": at, "disable_oauth": True, **nobody}))
    settings = {
        "GOOGLE_SERVICE_ACCOUNT": str(account),
        "GOOGLE_ALLOW_HTTP": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": "dGhlLXNlY3JldA==",
        "AZURE_STORAGE_ENDPOINT": at,
        "AZURE_ALLOW_HTTP": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield Cloud
    server.shutdown()
    server.server_close()


async def parts(*bodies: bytes) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


@pytest.mark.parametrize("scheme", ["gs", "az"])
async def test_small_and_large(cloud: type[Cloud], scheme: str) -> None:
    """In one piece and in several; a repeat writes the same object. The environment's account signs it."""
    url = read_archive_url(f"{scheme}://archive/runs")
    name = f"/archive/runs/main/{RUN}.json"
    assert await object_stores.put(url, None, "main", RUN, parts(b"a", b"b")) == f"{scheme}:/{name}"
    assert cloud.objects == {name: b"ab"}
    assert cloud.signed[0].startswith({"gs": "Bearer", "az": "SharedKey account:"}[scheme])
    bodies = [bytes([place]) * MIB for place in range(LARGE)]
    await object_stores.put(url, None, "main", RUN, parts(*bodies))
    assert len(cloud.pieces) > 1
    assert cloud.objects == {name: b"".join(bodies)}


@pytest.mark.parametrize("scheme", ["gs", "az"])
async def test_a_refusal_is_told_without_secrets(cloud: type[Cloud], scheme: str) -> None:
    cloud.refuses.append("all")
    with pytest.raises(errors.ArchiveUnavailable) as refused:
        await object_stores.put(read_archive_url(f"{scheme}://archive"), None, "main", RUN, parts(b"a"))
    told = f"{refused.value.message} {refused.value.metadata}"
    assert "the-secret" not in told
    assert "dGhlLXNlY3JldA" not in told
    assert "\n" not in refused.value.problem
