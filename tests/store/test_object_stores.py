"""Where archives go: which URLs are taken, folders for real, and an S3 on this machine."""

from __future__ import annotations

import asyncio
import builtins
import os
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stepwell_server import errors
from stepwell_server.model.archive_urls import name_of, read_archive_url
from stepwell_server.store import object_stores

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
LARGE = 12 * 1024 * 1024
CLOUD = ("AWS_", "GOOGLE_", "AZURE_")


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(CLOUD)]:
        monkeypatch.delenv(name)


async def parts(*bodies: bytes) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("file:///var/lib/archive/", "file:///var/lib/archive"),
        ("s3://bucket", "s3://bucket"),
        ("s3://my.bucket-1/a/b=c/", "s3://my.bucket-1/a/b=c"),
        ("gs://bucket/pre", "gs://bucket/pre"),
        ("az://container/pre", "az://container/pre"),
    ],
)
def test_urls(text: str, read: str) -> None:
    assert str(read_archive_url(text)) == read


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("bucket", "must begin with"),
        ("http://169.254.169.254/latest", "must begin with"),
        ("s3://", "must name a bucket"),
        ("s3://B", "must name a bucket"),
        ("s3://key:secret@bucket", "holds credentials"),
        ("s3://bucket?endpoint=x", "query"),
        ("s3://bucket/a#b", "query"),
        ("s3://bucket/a/../b", "not plain"),
        ("s3://bucket/a//b", "not plain"),
        ("s3://bucket/a%00b", "not plain"),
        ("s3://bucket/ä", "not plain"),
        ("file://host/var", "whole path"),
        ("file:///", "whole path"),
        ("file:///a/../etc", "not plain"),
        ("file:///%2e%2e/etc", "not plain"),
        ("s3://[", "no URL"),
        ("s3://" + "x" * 1100, "longer"),
    ],
)
def test_urls_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_archive_url(text)


def test_a_namespace_is_no_way_out_of_the_folder() -> None:
    assert [name_of(name, RUN).split("/")[0] for name in ("main", "..", ".", "...", ".a")] == [
        "main",
        "_..",
        "_.",
        "_...",
        ".a",
    ]


async def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    url = read_archive_url(f"file://{tmp_path}/kept")
    uri = await object_stores.put(url, tmp_path, "main", RUN, parts(b"a", b"b"))
    assert uri == f"file://{tmp_path}/kept/main/{RUN}.json"
    path = tmp_path / "kept/main" / f"{RUN}.json"
    assert path.read_bytes() == b"ab"

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        await object_stores.put(url, tmp_path, "main", RUN, broken())
    assert path.read_bytes() == b"ab"
    assert list(path.parent.iterdir()) == [path]
    await object_stores.put(url, tmp_path, "main", RUN, parts(b"c"))
    assert path.read_bytes() == b"c"


async def test_files_are_written_only_where_the_server_lets_them(tmp_path: Path) -> None:
    url = read_archive_url(f"file://{tmp_path}/kept")
    for folder in (None, tmp_path / "other", tmp_path / "kept2", tmp_path / "kep"):
        with pytest.raises(errors.ArchivesNotSupported):
            await object_stores.put(url, folder, "main", RUN, parts(b"a"))
    assert not await asyncio.to_thread(os.listdir, tmp_path)


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as writing needs: objects in one piece, and in several."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}
    pieces: ClassVar[dict[int, bytes]] = {}
    refused: ClassVar[list[str]] = []
    signed: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.signed.append(self.headers.get("Authorization", ""))
        path, _, query = self.path.partition("?")
        if self.refused:
            return self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        if "partNumber=" in query:
            self.pieces[int(query.split("partNumber=")[1].split("&")[0])] = body
        else:
            self.objects[path] = body
        return self._answer(200, b"")

    def do_POST(self) -> None:
        path, _, query = self.path.partition("?")
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if query.startswith("uploads"):
            self.pieces.clear()
            return self._answer(
                200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            )
        self.objects[path] = b"".join(self.pieces[number] for number in sorted(self.pieces))
        done = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        return self._answer(200, done)

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    """An S3, and an environment that knows it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for each in (Bucket.objects, Bucket.pieces, Bucket.refused, Bucket.signed):
        each.clear()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "id-of-the-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret-itself",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield Bucket
    server.shutdown()
    server.server_close()


async def test_s3_small_and_large(bucket: type[Bucket]) -> None:
    """In one piece and in several; a repeat writes the same object. The environment's key signs it."""
    url = read_archive_url("s3://archive/runs")
    uri = await object_stores.put(url, None, "main", RUN, parts(b"a", b"b"))
    assert uri == f"s3://archive/runs/main/{RUN}.json"
    assert bucket.objects == {f"/archive/runs/main/{RUN}.json": b"ab"}
    assert "id-of-the-key" in bucket.signed[0]
    await object_stores.put(url, None, "main", RUN, parts(*([b"x" * 1024 * 1024] * (LARGE // 1024 // 1024))))
    assert bucket.objects == {f"/archive/runs/main/{RUN}.json": b"x" * LARGE}


async def test_s3_that_refuses_is_told_without_secrets(bucket: type[Bucket]) -> None:
    bucket.refused.append("all")
    with pytest.raises(errors.ArchiveUnavailable) as refused:
        await object_stores.put(read_archive_url("s3://archive"), None, "main", RUN, parts(b"a"))
    told = f"{refused.value.message} {refused.value.metadata}"
    assert "secret" not in told
    assert "\n" not in refused.value.problem


@pytest.mark.parametrize("text", ["s3://bucket/x", "gs://bucket/x"])
def test_clouds_are_opened_without_a_look(text: str) -> None:
    object_stores.check(read_archive_url(text), None)


def test_azure_needs_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    url = read_archive_url("az://container/x")
    with pytest.raises(errors.ArchivesNotSupported, match="Account must be specified"):
        object_stores.check(url, None)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    object_stores.check(url, None)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "obstore":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(errors.ArchivesNotSupported, match=r"pip install 'stepwell-server\[archive\]'"):
        object_stores.check(read_archive_url("s3://bucket"), None)
