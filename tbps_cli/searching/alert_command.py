"""What `tbps watch --exec` runs for each alert: a command of the user's, without a shell unless it is one itself.

The command gets the alert as JSON on its standard input and as variables (`TBPS_QUERY`, `TBPS_FILE`, ...). It runs
after the alert's line is in the journal. One that fails, or takes longer than its limit, is run again after 1 and
after 10 seconds, and then given up with a warning. What was run is noted, so that a watcher which was killed runs what
is left over: a command may therefore run twice for one alert (at least once), and `TBPS_ALERT_ID` tells it so.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tbps_cli import files
from tbps_cli.errors import CacheError, UsageError
from tbps_cli.escape import exact_bytes, json_text, printable

try:
    import fcntl
except ImportError:  # Windows: two watchers of one journal may run a command at the same moment
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tbps")
LIMIT = 30.0
"""Seconds that a command may take."""
WAITS = 1.0, 10.0
"""Seconds before the second and the third try."""
_SHOWN = 300
"""Characters of a command's output that are shown."""
VARIABLES = ("id", "query", "path", "file", "score", "threshold", "camera", "time", "source", "seconds", "track")


class AlertCommand:
    """A command, what it has been run for, and what it is still to be run for."""

    def __init__(self, text: str, notes: Path, *, limit: float = LIMIT) -> None:
        """notes: the file that says what was run; watchers of one journal share it. Raises UsageError."""
        self.arguments = _split(text)
        self.notes, self.limit = notes, limit
        self.given_up = 0
        self._waiting: dict[str, tuple[float, Mapping[str, Any]]] = {}
        """Alert -> when it is its turn, by `time.monotonic`, and its line."""

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Let it be run for these lines of the journal, unless it has been."""
        done = self._notes()
        for line in lines:
            alert = str(line["id"])
            if not _is_over(done.get(alert, [])):
                self._waiting.setdefault(alert, (0.0, line))

    @property
    def due(self) -> float | None:
        """Seconds until the next run; None where there is none."""
        times = [moment for moment, _ in self._waiting.values()]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def run_due(self) -> None:
        """Run it for every alert whose turn it is."""
        for alert, (moment, line) in list(self._waiting.items()):
            if moment <= time.monotonic():
                with self._noting() as file:
                    tried = _tries(file).get(alert, [])
                    if not _is_over(tried):  # by another watcher
                        trouble = self._run(line)
                        tried = [*tried, trouble is None]
                        self._note(file, alert, trouble)
                        self._say(line, trouble, len(tried))
                if _is_over(tried):
                    del self._waiting[alert]
                else:
                    self._waiting[alert] = time.monotonic() + WAITS[len(tried) - 1], line

    def _say(self, line: Mapping[str, Any], trouble: str | None, tries: int) -> None:
        if trouble is None:
            return
        what = f"--exec {self.arguments[0]}: {trouble}, for alert {line['id']} ({printable(str(line['path']))})"
        if tries <= len(WAITS):
            logger.warning("%s; it is tried again in %g s.", what, WAITS[tries - 1])
        else:
            self.given_up += 1
            logger.warning("%s; given up after %d tries. The alert is in the journal.", what, tries)

    def _run(self, line: Mapping[str, Any]) -> str | None:
        """Run it once; returns what went wrong."""
        variables = {f"TBPS_{name.upper()}": str(line[name]) for name in VARIABLES if name in line}
        variables["TBPS_ALERT_ID"] = variables.pop("TBPS_ID")
        given = exact_bytes(json_text(line, indent=None) + "\n")
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    self.arguments,
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **{name: text.replace("\0", "") for name, text in variables.items()}},
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                return f"cannot be started ({getattr(error, 'strerror', None) or error})"
            try:
                process.communicate(given, timeout=self.limit)
            except subprocess.TimeoutExpired:
                _end(process)
                return f"took longer than {self.limit:g} s and was ended"
            except BaseException:
                _end(process)
                raise
            text = _tail(said)
        if process.returncode:
            status = process.returncode
            ended = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
            return ended + (f" ({text})" if text else "")
        if text:
            logger.info("--exec %s: %s", self.arguments[0], text)
        return None

    def _notes(self) -> dict[str, list[bool]]:
        with suppress(FileNotFoundError), self.notes.open("rb") as file:
            return _tries(file)
        return {}

    @contextmanager
    def _noting(self) -> Any:
        """The notes, locked while the command runs, so that no other watcher of the journal runs it too."""
        with files.explained(self.notes, CacheError):
            self.notes.parent.mkdir(parents=True, exist_ok=True)
            file = self.notes.open("a+b", buffering=0)
        with file:
            if fcntl is not None:
                with suppress(OSError):  # a disk without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _note(self, file: IO[bytes], alert: str, trouble: str | None) -> None:
        note = {"id": alert, "done": trouble is None, **({"trouble": trouble} if trouble else {})}
        try:
            file.write(b"\n" + exact_bytes(json_text(note, indent=None)) + b"\n")
            os.fsync(file.fileno())
        except OSError as error:
            logger.warning("%s cannot be written: %s. The command may be run again.", self.notes, files.reason(error))


def _split(text: str) -> list[str]:
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--exec {text}: {str(error).lower()}.", "For example: --exec 'notify-send Found'") from None
    if not arguments:
        raise UsageError("--exec is empty.", "For example: --exec 'notify-send Found'")
    program = shutil.which(files.expanded(Path(arguments[0])))
    if program is None:
        raise UsageError(
            f"--exec {arguments[0]}: there is no such program.",
            "It is run without a shell; for pipes and variables: --exec 'sh -c \"...\"'",
        )
    return [program, *arguments[1:]]


def _tries(file: IO[bytes]) -> dict[str, list[bool]]:
    """Alert -> whether each try went well; lines that a kill left half written are passed over."""
    file.seek(0)
    found: dict[str, list[bool]] = {}
    for text in file:
        with suppress(ValueError, TypeError, KeyError):
            line = json.loads(text)
            found.setdefault(str(line["id"]), []).append(bool(line["done"]))
    return found


def _is_over(tried: list[bool]) -> bool:
    return any(tried) or len(tried) > len(WAITS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _tail(said: IO[bytes]) -> str:
    """The end of what a command said, in one line."""
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - 4 * _SHOWN))
    return printable(" ".join(said.read().decode("utf-8", "replace").split())[-_SHOWN:])
