"""What libhdf5 says of a file without a footer, asked in another process: it may loop or crash on a damaged one.

One server per process imports h5py once and forks for each file, so that a file costs milliseconds, is read in fresh
memory whatever came before it, and can only take down its own fork. It ends with the process that started it.
Where nothing can be forked (Windows), each file gets a process of its own.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

from tbps_cli.features.footer import Contents, DamagedFile

WALL_SECONDS = 60.0
"""For disks that are slow; how long it may compute is limited in `features.hdf5`."""
ENDLESS = "HDF5 does not come to an end with it"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_END_OF_FILE = {0: 40, 1: 44, 2: 28, 3: 28}
"""Version of the superblock -> where it says how long the file is, when addresses have 8 bytes."""
_SIZE_OF_ADDRESSES = {0: 13, 1: 13, 2: 9, 3: 9}


def describe(file: BinaryIO) -> Contents:
    """What is in an open HDF5 file, and where. Raises DamagedFile."""
    size = file.seek(0, os.SEEK_END)
    check_length(file, size)
    try:
        status, text = _server().ask(file) if hasattr(os, "fork") else _ask_afresh(file)
    except TimeoutError:
        raise DamagedFile(ENDLESS) from None
    except OSError as error:
        raise DamagedFile(f"the process that reads it has ended ({error})") from None
    if status < 0:
        raise DamagedFile(ENDLESS if -status in _STOPPED else "HDF5 crashes on it")
    if status:
        raise DamagedFile(text.strip().splitlines()[-1] if text.strip() else "HDF5 cannot open it")
    return Contents.from_json(text.encode(), size)


_STOPPED = {getattr(signal, name) for name in ("SIGPROF", "SIGKILL") if hasattr(signal, name)}


def check_length(file: BinaryIO, size: int) -> None:
    """Raises DamagedFile for a file that is shorter than its superblock says: most that are damaged end early."""
    file.seek(0)
    head = file.read(64)
    version = head[8] if len(head) == 64 else -1
    if version not in _END_OF_FILE or not head.startswith(SIGNATURE):
        raise DamagedFile("its superblock is damaged")
    place = _END_OF_FILE[version]
    if head[_SIZE_OF_ADDRESSES[version]] == 8 and int.from_bytes(head[place : place + 8], "little") > size:
        raise DamagedFile("it ends early")


class Server:
    """A process that describes one file after another, each in a fork of itself (`features.hdf5.serve`)."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                _command("serve"),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )

    def ask(self, file: BinaryIO) -> tuple[int, str]:
        """(status, text) of the fork; the status is negative for the signal that ended it."""
        with self._lock:
            try:
                self._ours.settimeout(WALL_SECONDS)
                socket.send_fds(self._ours, [b"?"], [file.fileno()])
                answer = b""
                while not answer.endswith(b"\n"):
                    block = self._ours.recv(1 << 16)
                    if not block:
                        raise ConnectionError("without a word")
                    answer += block
            except BaseException:  # also Ctrl-C: the answer must not be taken for that of the next file
                self.end()
                raise
        status, text = json.loads(answer)
        return int(status), str(text)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Stop it, with a fork that is still reading. Does nothing in a fork of the process that started it."""
        if self._owner != os.getpid():
            return
        self._ours.close()
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


_servers: dict[int, Server] = {}
"""By process: a fork of ours must not talk into its parent's."""


def _server() -> Server:
    found = _servers.get(os.getpid())
    if found is None or not found.running:
        if found is not None:
            atexit.unregister(found.end)
            found.end()
        found = _servers[os.getpid()] = Server()
        atexit.register(found.end)
    return found


def _ask_afresh(file: BinaryIO) -> tuple[int, str]:
    file.seek(0)
    try:
        done = subprocess.run(
            _command("describe_stdin"), stdin=file, capture_output=True, timeout=WALL_SECONDS, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    said = done.stderr if done.returncode else done.stdout
    return done.returncode, said.decode("utf-8", "replace")


def _command(function: str) -> list[str]:
    # -P: nothing is imported from the working directory
    return [sys.executable, "-P", "-W", "ignore", "-c", f"from tbps_cli.features.hdf5 import {function}; {function}()"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
