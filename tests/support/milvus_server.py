"""A real Milvus server for tests: the standalone server 2.3.5, which lies in the wheel `milvus`.

It runs below a process of its own, which ends it when the tests end, however they do. It keeps its port when it is
killed and started again.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from support.postgres_server import free_port

_NUMBERS = count(1)
_RUN = """
import socket, sys
from milvus import MilvusServer, MilvusServerConfig
class Config(MilvusServerConfig):
    def try_bind_port(self, port):  # as the server does, whatever connections of a killed one wait to end
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            return None
config = Config(data_dir=sys.argv[1], proxy_port=int(sys.argv[2]))
server = MilvusServer(config, wait_for_started=False)
server.start()
try:
    server.wait_started(90_000)
    print(server.server_proc.pid, flush=True)
    sys.stdin.read()
finally:
    server.server_proc.kill()
"""


class NoMilvus(Exception):
    """Why no server can be started here."""


@dataclass
class MilvusProcess:
    """A server, made by `new`."""

    folder: Path
    port: int = 0
    starter: subprocess.Popen[str] | None = field(default=None, repr=False)
    process: int = 0

    @classmethod
    def new(cls) -> MilvusProcess:
        """An empty server that runs. Raises NoMilvus."""
        if importlib.util.find_spec("milvus") is None:
            raise NoMilvus("the package milvus is not installed (pip install milvus==2.3.5)")
        made = cls(Path(tempfile.mkdtemp(prefix="tbps-milvus-")))
        try:
            made.start()
        except NoMilvus:
            made.remove()
            raise
        return made

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.port = self.port or free_port()
        command = [sys.executable, "-W", "ignore", "-c", _RUN, str(self.folder), str(self.port)]
        self.starter = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.starter.stdout is not None and self.starter.stderr is not None
        said = self.starter.stdout.readline()
        if not said.strip():
            self.starter.wait()
            raise NoMilvus(f"the server does not start: {self.starter.stderr.read().strip()[-300:]}")
        self.process = int(said)

    def url(self) -> str:
        """The URL of a new collection."""
        return f"milvus://127.0.0.1:{self.port}/gallery{next(_NUMBERS)}"

    def kill(self) -> None:
        """kill -9; its data stays."""
        os.kill(self.process, signal.SIGKILL)
        self._end()

    def remove(self) -> None:
        """Stop it and delete everything."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        if self.starter is not None:
            assert self.starter.stdin and self.starter.stdout and self.starter.stderr
            self.starter.stdin.close()
            self.starter.wait(timeout=30)
            self.starter.stdout.close()
            self.starter.stderr.close()
            self.starter = None
