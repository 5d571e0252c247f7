"""A Hugging Face hub on this machine: the part of its interface that fetching one file uses, with what it answers
for private, gated and missing repositories, revisions and files."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

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
        repository, _, revision = path.removeprefix("models/").partition("/revision/")
        if repository not in self.files or (repository in self.private and token != "Bearer secret"):
            return 401, "RepoNotFound", b""
        if repository in self.gated:
            return 403, "GatedRepo", b""
        if revision not in ("", "main", COMMIT):
            return 404, "RevisionNotFound", b""
        names = [{"rfilename": name} for name in self.files[repository]]
        return 200, "", json.dumps({"id": repository, "sha": COMMIT, "siblings": names, "tags": []}).encode()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._send(body=False)

            def do_GET(self) -> None:
                self._send(body=True)

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
