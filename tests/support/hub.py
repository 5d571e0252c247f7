"""A Hugging Face hub on this machine: the part of its interface that fetching one file and sending a folder use, with
what it answers for private, gated and missing repositories, revisions and files."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socket
import threading
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

COMMIT = "ceef4b378deaf094c8276ecb6ed8705421010aab"


def hub_client(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client ask this hub, without a login and with an empty cache."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))


@dataclass
class Hub:
    """files: `OWNER/REPO` or `datasets/OWNER/REPO` -> file name -> content. private: needs the token "secret"."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    lies: bool = False
    """Sends other bytes than those whose hash it states."""
    cut: int | None = None
    """The next answer ends after so many bytes, as a connection that breaks does."""
    asked: list[str] = field(default_factory=list)
    read_only: bool = False
    """The token may not write."""
    large: int | None = None
    """Files of so many bytes go by the LFS batch API; None: no file does."""
    part: int | None = None
    """Large files are sent in parts of so many bytes."""
    breaks: int = 0
    """So many times, sending a large file or a part of one breaks off in the middle."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content of large files, whether they are committed or not."""
    tokens: set[str] = field(default_factory=set)
    """Whatever came as a login at any address."""

    def __post_init__(self) -> None:
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, token: str | None) -> tuple[int, str, bytes]:
        """Status, the hub's own word for an error, the file."""
        if path.startswith("/api/"):
            return self._about(path.removeprefix("/api/"), token)
        repository, found, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if not found or repository not in self.files or (repository in self.private and token != "Bearer secret"):
            return 401, "RepoNotFound", b""  # the hub does not tell strangers which
        if repository in self.gated:
            return 403, "GatedRepo", b""
        if revision not in ("main", COMMIT):
            return 404, "RevisionNotFound", b""
        content = self.files[repository].get(name)
        return (404, "EntryNotFound", b"") if content is None else (200, "", content)

    def _about(self, path: str, token: str | None) -> tuple[int, str, bytes]:
        """What a repository holds, as JSON."""
        if path == "whoami-v2":
            return (200, "", json.dumps({"name": "owner"}).encode()) if token == "Bearer secret" else (401, "", b"")
        path, _, tree = path.partition("?")[0].partition("/tree/")
        repository, _, revision = path.removeprefix("models/").partition("/revision/")
        if repository not in self.files or (repository in self.private and token != "Bearer secret"):
            return 401, "RepoNotFound", b""
        if repository in self.gated:
            return 403, "GatedRepo", b""
        if revision not in ("", "main", COMMIT):
            return 404, "RevisionNotFound", b""
        if tree:
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files[repository].items()
            ]
            return 200, "", json.dumps(rows).encode()
        facts = {"id": repository, "sha": COMMIT, "tags": [], "private": repository in self.private}
        names = [{"rfilename": name} for name in self.files[repository]]
        return 200, "", json.dumps(facts | {"siblings": names}).encode()

    def take(self, path: str, body: bytes, token: str | None) -> tuple[int, dict[str, object]]:
        """What sending a folder asks for: a repository is made, cards are looked at, files are committed."""
        path = path.partition("?")[0].removeprefix("/api/")
        if token != "Bearer secret":
            return 401, {"error": "Invalid username or password."}
        if path == "validate-yaml":
            return 200, {"warnings": [{"message": "the card could say more"}], "errors": []}
        if self.read_only:
            return 403, {"error": "Forbidden: pass a token that may write."}
        if path == "repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.files:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            self.files[name] = {".gitattributes": b""}
            if wanted.get("visibility") == "private":
                self.private.add(name)
            return 200, {"url": f"{self.url}/{name}", "name": name}
        repository, _, rest = path.removeprefix("models/").partition("/preupload/")
        if rest:
            modes = {one["path"]: self._mode(one["size"]) for one in json.loads(body)["files"]}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            return 200, {"files": files}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._object(one) for one in json.loads(body)["objects"]]}
        if path.endswith("/lfs-verify"):
            one = json.loads(body)
            whole = len(self.stored.get(one["oid"], b"")) == one["size"]
            return (200, {}) if whole else (422, {"error": "the object is not here"})
        repository = repository.partition("/commit/")[0]
        for part in map(json.loads, body.splitlines()):
            value = part["value"]
            if part["key"] == "file":
                self.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                self.files[repository][value["path"]] = self.stored[value["oid"]]
            elif part["key"] == "deletedFile":
                del self.files[repository][value["path"]]
        return 200, {"commitUrl": f"{self.url}/{repository}/commit/{COMMIT}", "commitOid": COMMIT}

    def _mode(self, size: int) -> str:
        return "lfs" if self.large is not None and size >= self.large else "regular"

    def _object(self, wanted: dict[str, Any]) -> dict[str, object]:
        """What the batch API says of one large file: nothing to do, one address, or one for each part."""
        oid, size = wanted["oid"], wanted["size"]
        if oid in self.stored:
            return {"oid": oid, "size": size}
        upload: dict[str, object] = {"href": f"{self.url}/lfs/{oid}"}
        if self.part:
            numbers = range(1, -(-size // self.part) + 1)
            upload = {"href": f"{self.url}/lfs-complete/{oid}"}
            upload["header"] = {"chunk_size": str(self.part)} | {
                str(number): f"{self.url}/lfs/{oid}/{number}" for number in numbers
            }
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{self.url}/lfs-verify"}}}

    def put(self, path: str, content: bytes) -> None:
        """A large file, or one part of it."""
        oid, _, part = path.removeprefix("/lfs/").partition("/")
        if part:
            self.stored[f"{oid}/{part}"] = content
        else:
            assert hashlib.sha256(content).hexdigest() == oid
            self.stored[oid] = content

    def complete(self, path: str, body: bytes) -> None:
        """All parts of a large file are there."""
        oid = path.removeprefix("/lfs-complete/")
        numbers = [one["partNumber"] for one in json.loads(body)["parts"]]
        content = b"".join(self.stored.pop(f"{oid}/{number}") for number in numbers)
        assert hashlib.sha256(content).hexdigest() == oid
        self.stored[oid] = content

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._send(body=False)

            def do_GET(self) -> None:
                self._send(body=True)

            def do_PUT(self) -> None:
                owner.asked.append(f"PUT {self.path}")
                owner.tokens.add(self.headers.get("Authorization") or "")
                length = int(self.headers["Content-Length"])
                if owner.breaks > 0:
                    owner.breaks -= 1
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                owner.put(self.path, self.rfile.read(length))
                self.send_response(200)
                self.send_header("ETag", '"part"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.asked.append(f"POST {urllib.parse.urlsplit(self.path).path}")
                if self.path.startswith("/lfs-complete/"):
                    owner.complete(self.path, body)
                    status, said = 200, dict[str, object]()
                else:
                    status, said = owner.take(self.path, body, self.headers.get("Authorization"))
                content = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _send(self, *, body: bool) -> None:
                status, error, content = owner.answer(self.path, self.headers.get("Authorization"))
                owner.asked.append(f"{self.command} {self.path}")
                digest, begin = hashlib.sha256(content).hexdigest(), 0
                if body and status == 200 and "Range" in self.headers:
                    begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                    status = 206
                whole, content = len(content), content[begin:]
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {begin}-{whole - 1}/{whole}")
                if error:
                    self.send_header("X-Error-Code", error)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{digest}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    cut, owner.cut = owner.cut, None
                    self.wfile.write((content[::-1] if owner.lies else content)[:cut])
                    self.close_connection = cut is not None

            def log_message(self, *_: object) -> None: ...

        return Handler
