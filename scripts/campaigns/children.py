"""Forks that are `tbps`: everything is imported once, so that a run costs what it does and not two seconds more."""

from __future__ import annotations

import fcntl
import importlib
import io
import os
import pkgutil
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tbps_cli

LONGEST = 240.0
"""Seconds after which a run counts as hanging."""


def import_everything() -> None:
    """What runs of tbps import sooner or later. Computes nothing, so that forks lose no threads."""
    for module in pkgutil.walk_packages(tbps_cli.__path__, "tbps_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("torch._dynamo", "torch._refs", "h5py", "prettytable", "rich.progress", "rich.live"):
        importlib.import_module(name)


@dataclass(frozen=True)
class Ended:
    """How a run ended: its status (negative for a signal, None when it hung), what it said, what it took."""

    words: Sequence[str]
    status: int | None
    out: str
    err: str
    memory: int
    """Most bytes that it had in memory."""
    killed: bool = False

    def fault(self, *, may_fail: bool = False, must_fail: bool = False) -> str | None:
        """What is wrong with how it ended; None when nothing is."""
        said = [line for line in self.err.splitlines() if line.strip()]
        errors = sum(line.startswith("Error:") for line in said)
        what = f"tbps {' '.join(self.words)}: "
        if "Traceback (most recent call last)" in self.err + self.out:
            return f"{what}traceback: {said[-1] if said else ''}"
        if self.status is None:
            return f"{what}hung for {LONGEST:.0f} s"
        if self.status not in (0, 1, 2):
            return f"{what}status {self.status}: {' / '.join(said[-3:])}"
        if self.status == 0 and must_fail:
            return f"{what}status 0, as if nothing were wrong: {' / '.join(said[-3:])}"
        if self.status != 0 and not (may_fail or must_fail):
            return f"{what}status {self.status}: {' / '.join(said[-3:])}"
        if errors != (self.status != 0):
            return f"{what}{errors} error lines with status {self.status}: {' / '.join(said[-3:])}"
        return None


def tbps(
    words: Sequence[object],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    kill_after: float | None = None,
    stdin: bytes = b"",
) -> Ended:
    """Run `tbps WORDS` in a folder, with a cache of its own there.

    before: is called in the child. kill_after: seconds until it is killed, if it still runs.
    """
    spoken = [str(word) for word in words]
    # Pipes, since what limits the size of files must not swallow messages; wide enough for all that is said.
    (out, out_end), (err, err_end) = _pipe(), _pipe()
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        child = os.fork()
        if child == 0:
            os.setsid()
            _use(given.fileno(), out_end, err_end)
            _be_tbps(spoken, folder, environment or {}, before)
    os.close(out_end)
    os.close(err_end)
    killed, status, memory = _watch(child, LONGEST if kill_after is None else kill_after, kill_after is not None)
    return Ended(spoken, status, _said(out), _said(err), memory, killed)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(reader, False)
    return reader, writer


def _said(reader: int) -> str:
    """What is in a pipe; somebody may still hold its other end."""
    content = b""
    with suppress(BlockingIOError):
        while block := os.read(reader, 1 << 16):
            content += block
    os.close(reader)
    return content.decode("utf-8", "replace")


def _use(given: int, out: int, err: int) -> None:
    os.dup2(given, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False), "utf-8")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", write_through=number == 2) for number in (1, 2)
    )


def _be_tbps(words: list[str], folder: Path, environment: Mapping[str, str], before: Callable[[], None] | None) -> None:
    """Never returns."""
    status = 99
    try:
        os.environ.update({"TBPS_CACHE_DIR": str(folder / "cache"), **environment})
        os.chdir(folder)
        if before is not None:
            before()
        from tbps_cli.cli import app

        app.main(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError:
        status = 120  # as Python ends when the last flush fails
    os._exit(status)


def _watch(child: int, seconds: float, kill: bool) -> tuple[bool, int | None, int]:
    """(whether it was killed as wanted, status, memory)."""
    handle = os.pidfd_open(child)
    ended = bool(select.select([handle], [], [], seconds)[0])
    os.close(handle)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, raw, usage = os.wait4(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # its workers
    status = os.waitstatus_to_exitcode(raw)
    return not ended and kill, None if not (ended or kill) else status, usage.ru_maxrss * 1024
