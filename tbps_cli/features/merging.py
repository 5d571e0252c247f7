"""Merging in the background: a thread writes a feature file and its parts as one, and puts that in their place.

Writing takes seconds for a million rows, and `tbps index` lists folders and embeds images meanwhile. Nothing that is
there is touched before the new file is whole and on the disk. Then, with the lock of the parts held alone, it takes the
place of the old one, if that and the parts that were merged still are what they were: where somebody has rewritten
or joined them, or removed the unfinished file, what was written is thrown away. Parts that came meanwhile stay
beside. A process that is killed leaves the old files as they were, and one unfinished file, which nobody reads and the
next who writes there removes.

One process merges a file at a time; without locks (Windows, some network disks) nobody does this in the background.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from tbps_cli import files, interrupts
from tbps_cli.errors import CacheError
from tbps_cli.features.parts import NoLocks, is_open_at, locked, part_paths, unfinished, unwritable
from tbps_cli.features.snapshot import Part, load

logger = logging.getLogger("tbps")
Writer = Callable[[Path, Sequence[Part], Sequence[Path], Callable[[], None]], None]
"""Writes under a path all rows of some files, in the name of some parts; what it calls now and then may end it."""
LOOK = 0.1
"""Seconds after which whoever waits for a merge looks again."""
NICE = 10
"""By how much a merge stands back behind other work of the processor."""


class Stopped(Exception):
    """Somebody does not want the merge any longer."""


class BackgroundMerge:
    """One merge on its way."""

    def __init__(self, path: Path, fingerprint: str, write: Writer) -> None:
        self.path, self.fingerprint, self._write = path, fingerprint, write
        self.error: CacheError | None = None
        self.impossible = False
        """Whether there are no locks, so that nothing is merged in the background."""
        self.merged = False
        """Whether the new file is in its place."""
        self.running = True
        self._stop = False
        self._handle: int | None = None
        self._end: SimpleQueue[None] = SimpleQueue()
        """Gets one entry at the end, to wake who waits. `Thread.join` and `Event.wait` must not be interrupted: after a
        Ctrl-C the one takes a thread for ended, the other may hold its lock for ever."""
        thread = threading.Thread(target=self._run, name="tbps-merge", daemon=True)
        with interrupts.held():
            thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; whether it has ended. Ctrl-C stops it, with everything as it was before."""
        try:
            return self._has_ended_within(math.inf if seconds is None else seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self, seconds: float = 5.0) -> None:
        """End it soon: what it has written is thrown away unless it is in its place already."""
        self._stop = True
        self._has_ended_within(seconds)

    def _has_ended_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.running and (left := end - time.monotonic()) > 0:
            with suppress(Empty):
                self._end.get(timeout=min(left, LOOK))  # for ever would be deaf to signals that another thread receives
        return not self.running

    def check(self) -> None:
        """Raises Stopped when it is to end, or when its file was removed: rows in it were to go."""
        if self._stop or (self._handle is not None and os.fstat(self._handle).st_nlink == 0):
            raise Stopped

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            with unfinished(self.path) as place:
                if place is not None:
                    self._merge(place)
        except Stopped:
            pass
        except NoLocks:
            self.impossible = True
        except CacheError as error:
            self.error = error
        except (OSError, RuntimeError) as error:  # the latter of h5py
            self.error = unwritable(self.path, error)
        finally:
            self.running = False
            self._end.put(None)

    def _merge(self, place: Path) -> None:
        beside = part_paths(self.path)  # first: what comes now is neither in the new file nor removed
        parts = load(self.path, self.fingerprint)
        before = {part.path: part.identity for part in parts}
        self._handle = os.open(place, os.O_RDONLY)
        try:
            try:
                self._write(place, parts, beside, self.check)
            finally:
                self.check()  # first: whoever removed the file is not to be told that it cannot be written
            os.fsync(self._handle)
            with locked(self.path, alone=True):
                self.check()
                if is_open_at(self._handle, place) and all(files.identity(path) == was for path, was in before.items()):
                    place.replace(self.path)
                    files.sync(self.path.parent)
                    self.merged = True
                    for part in beside:
                        part.unlink(missing_ok=True)
        finally:
            os.close(self._handle)
            self._handle = None
