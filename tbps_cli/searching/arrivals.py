"""Which files of a watched source are there, which have stopped growing, and when it is worth looking again.

A file is taken when its size and time of change have stayed the same for a while by our own clock; the times that
files state are not believed, since copies keep those of their originals and network disks have clocks of their own.
A source that vanishes is waited for; nothing is forgotten meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from tbps_cli import interrupts
from tbps_cli.errors import DataError
from tbps_cli.searching.listed import FileFacts
from tbps_cli.searching.scan import FoundFiles
from tbps_cli.searching.sources import Item, Items, Listing, Sources, find_sources

logger = logging.getLogger("tbps")
SETTLED = 2.0
"""Seconds for which a file must stay as it is."""
LOOK = 60.0
"""Seconds from one listing to the next where nothing was noticed; changes in linked folders are seen then."""
LOOK_REMOTE = 10.0
"""The same on disks of which other machines' changes are not noticed."""
_STOPS = 0.25
"""Seconds after which it is seen that nobody is to wait any longer."""
_BEGINS = 2.0
"""Seconds after folders begin to be watched until they are listed once more: what came meanwhile was not noticed."""
_REMOTE = ("nfs", "cifs", "smb", "fuse.sshfs", "fuse.rclone", "9p", "afs", "ceph", "glusterfs", "fuse.s3fs")


@dataclass
class Taken(Listing):
    """The files that have stopped growing; of the others rows may be there already, which stay."""

    waiting: set[str] = field(default_factory=set)

    def hides(self, path: str) -> bool:
        return path in self.waiting or super().hides(path)


class Arrivals:
    """The files of some sources, listed again and again."""

    def __init__(
        self,
        places: Sequence[str | Path],
        *,
        gallery: str | None = None,
        settled: float = SETTLED,
        facts: Mapping[Path, Callable[[Path], FileFacts]] | None = None,
    ) -> None:
        """facts: what is known of the files directly in a folder. Raises DataError for a source that is not there."""
        self.places, self.gallery, self.settled = list(places), gallery, settled
        self.facts = {folder.absolute(): of for folder, of in (facts or {}).items()}
        self._sources = find_sources(self.places, gallery=gallery)
        self._seen = FoundFiles.of([])
        self._since_N: NDArray[np.float64] = np.zeros(0)
        """Since when each of them has been as it is, by our own clock."""
        self.taken = Taken(Items(self._sources.roots, self._seen))
        self.any_before = False

    @property
    def sources(self) -> Sources:
        """The sources as `index` takes them: their list is the last one that `look` made."""
        return replace(self._sources, list=lambda looked=None: self.taken)

    @property
    def present(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of all files, also of those that are still growing."""
        seen = self._seen
        return list(zip(seen.paths, seen.size_N.tolist(), seen.mtime_N.tolist(), strict=True))

    @property
    def folders(self) -> list[Path]:
        """What is to be watched."""
        roots = self._sources.roots
        there = [*roots.named.values()] if roots.named else [roots.folder]
        return [path for path in there if path.exists()]

    def look(self) -> bool:
        """List the files; whether the taken ones differ from the last time. Raises DataError when all are gone."""
        try:
            self._sources = find_sources(self.places, gallery=self.gallery)  # a pattern may fit more by now
        except DataError:
            if len(self.places) == 1:
                raise
        listing, now = self._sources.list(), time.monotonic()
        if not listing.items and self.any_before:
            raise DataError(f"{self._sources.title} holds no images any more.")
        items = Items.of(listing.items, self._sources.roots)
        since_N = self._unchanged_since(items.found, now)
        settled_N = now - since_N >= self.settled
        taken = items.only(np.flatnonzero(settled_N))
        if self.facts:
            taken = Items.of([self._with_facts(item) for item in taken], taken.roots)
        before = self.taken.items
        self._seen, self._since_N = items.found, since_N
        self.taken = Taken(taken, dict(listing.unreadable), set(items.found.take(~settled_N).paths))
        self.any_before |= bool(len(items))
        return not (isinstance(before, Items) and before.found.same_as(taken.found))

    def _unchanged_since(self, found: FoundFiles, now: float) -> NDArray[np.float64]:
        """Since when each file has been as it is now."""
        place_N = self._seen.lookup.find(found.name_N)
        known = np.flatnonzero(place_N >= 0)
        there, as_now = self._seen.take(place_N[known]), found.take(known)
        same = known[(there.size_N == as_now.size_N) & (there.mtime_N == as_now.mtime_N)]
        since_N = np.full(len(found), now)
        since_N[same] = self._since_N[place_N[same]]
        return since_N

    def _with_facts(self, item: Item) -> Item:
        of = self.facts.get(item.file.absolute().parent)
        return item if of is None else replace(item, facts=of(item.file))


class Noticing:
    """Waits until something changes in some folders, by `watchfiles`; where that fails, until the time is over."""

    def __init__(self) -> None:
        self._changed: SimpleQueue[None] = SimpleQueue()
        """An entry a change: whoever waits may be the main thread, and `Event.wait` must not be interrupted."""
        self._over = interrupts.Flag()
        self._folders: list[tuple[Path, tuple[int, int]]] = []
        self._told = False
        self._begun = False

    def follow(self, folders: Sequence[Path]) -> None:
        """Watch these folders from now on, anew where one of them is another by now."""
        named = [(folder, _identity(folder)) for folder in folders]
        if named == self._folders:
            return
        self.close()
        self._folders, self._over, self._begun = named, interrupts.Flag(), True
        if named:
            thread = threading.Thread(target=self._notice, args=(self._over, folders), daemon=True, name="watch")
            with interrupts.held():
                thread.start()

    def wait(self, seconds: float, stop: threading.Event | interrupts.Flag) -> None:
        """Until something has changed, so many seconds have passed, or `stop` is set."""
        until = time.monotonic() + (min(seconds, _BEGINS) if self._begun else seconds)
        self._begun = False
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            with suppress(Empty):
                self._changed.get(timeout=min(left, _STOPS))
                break
        while not self._changed.empty():  # many changes at once are one
            with suppress(Empty):
                self._changed.get_nowait()

    def look(self) -> None:
        """Have whoever waits look now."""
        self._changed.put(None)

    def close(self) -> None:
        self._over.set()

    def _notice(self, over: interrupts.Flag, folders: Sequence[Path]) -> None:
        from watchfiles import watch

        try:
            for _ in watch(
                *folders,
                watch_filter=None,
                stop_event=over,
                debounce=400,
                step=100,
                rust_timeout=1000,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                self._changed.put(None)
        except (OSError, RuntimeError, ValueError) as error:
            if not over.is_set() and not self._told:
                self._told = True
                logger.warning("Changes cannot be noticed (%s); the sources are listed every %g s.", error, LOOK)


def look_every(folders: Sequence[Path]) -> float:
    """How many seconds may pass from one listing to the next, by the kind of disk."""
    return LOOK_REMOTE if any(is_remote(folder) for folder in folders) else LOOK


def is_remote(folder: Path) -> bool:
    """Whether a folder lies on a disk of another machine, as far as the system says it (Linux)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
        device = folder.stat().st_dev
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0].startswith(_REMOTE)
    return False


def _identity(folder: Path) -> tuple[int, int]:
    with suppress(OSError):
        state = folder.stat()
        return state.st_dev, state.st_ino
    return 0, 0
