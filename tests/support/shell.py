"""A shell in which `tbps` answers at once: one process imports everything, and forks for each command.

The commands `tbps`, `tbps-lite` and `.venv/bin/tbps` are small clients. They hand their words, streams, folder and
environment to that process; its child is the command from there on. So pipes, variables, `~` and `;` are bash's own.

python -m support.shell SOCKET [MODULE] is the process; MODULE is imported first.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({socket!r})
socket.send_fds(asked, [b"."], [0, 1, 2])
asked.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
told = asked.makefile()
process = int(told.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = int(told.readline())
sys.exit(status if status >= 0 else 128 - status)
"""
START = 180
"""Seconds for the imports, on a busy machine."""


@dataclass(frozen=True)
class Done:
    """What a line came to."""

    status: int
    text: str
    """Standard output and standard error, in the order in which they came."""


class Shell:
    """bash with `tbps` in its path; close it at the end."""

    def __init__(self, folder: Path, env: Mapping[str, str], module: str | None = None) -> None:
        """folder: for the clients. env: of every command, and of the process that forks. module: imported by it."""
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / "socket")
        for name in ("tbps", "tbps-lite"):
            client = folder / name
            client.write_text(CLIENT.format(python=sys.executable, socket=path))
            client.chmod(0o755)
        path_of = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.env = {**os.environ, **env, "PATH": path_of}
        command = [sys.executable, "-m", "support.shell", path, *([module] if module else [])]
        tests = Path(__file__).resolve().parents[1]
        found = os.pathsep.join([str(tests), str(tests.parent)])
        self.process = subprocess.Popen(
            command, env=self.env | {"PYTHONPATH": found}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", "the process that forks did not start"

    def run(self, line: str, folder: Path, *, typed: str = "", until: str | None = None, seconds: float = 1200) -> Done:
        """Run a line. typed: its standard input. until: interrupt it as Ctrl-C does once it has printed this."""
        child = subprocess.Popen(
            ["bash", "-c", line],
            cwd=folder,
            env=self.env | {"PWD": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert child.stdin is not None and child.stdout is not None
        end = time.monotonic() + seconds
        try:
            child.stdin.write(typed.encode())
            child.stdin.close()
            os.set_blocking(child.stdout.fileno(), False)
            text = b""
            waiting = until
            while True:
                part = child.stdout.read()
                if part == b"":
                    break
                text += part or b""
                if waiting is not None and waiting.encode() in text:
                    os.killpg(child.pid, signal.SIGINT)
                    waiting = None
                if time.monotonic() > end:
                    raise TimeoutError(f"{line}: not done after {seconds:.0f} s: {text.decode()}")
                if part is None:
                    time.sleep(0.005)
            return Done(child.wait(timeout=30), text.decode())
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            child.stdout.close()

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve(path: str) -> None:
    """Answer clients until standard input ends, as it does when whoever started this process is gone."""
    import tbps_cli

    for module in pkgutil.walk_packages(tbps_cli.__path__, "tbps_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("torch._dynamo", "h5py", "rich.progress", "rich.live", "onnxruntime"):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while 0 not in select.select([server.fileno(), 0], [], [])[0]:
            asked, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(asked)
            asked.close()


def _answer(asked: socket.socket) -> None:
    """Start the command, tell its number, wait for it and tell its status. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(asked, 1, 3)
    words, folder, env = json.loads(asked.makefile().readline())
    child = os.fork()
    if child == 0:
        asked.close()
        _become(words, folder, env, files)
    for file in files:
        os.close(file)
    with contextlib.suppress(OSError):
        asked.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    if ended not in select.select([asked.fileno(), ended], [], [])[0]:  # whoever asked has gone
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        asked.sendall(f"{status}\n".encode())
    os._exit(0)


def _become(words: list[str], folder: str, env: dict[str, str], files: list[int]) -> None:
    """Be the command `tbps WORDS`. Does not return."""
    status = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        os.setpgid(0, 0)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False), "utf-8")
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", write_through=number == 2)
            for number in (1, 2)
        )
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        from tbps_cli.cli.app import main

        main(words)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    serve(sys.argv[1])
