"""Images and videos that an index leaves out, and why: kept beside it, so that each is tried and named once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.errors import TbpsError
from tbps_cli.features.parts import locked
from tbps_cli.features.rows import encoded
from tbps_cli.searching.gallery import Skipped
from tbps_cli.searching.scan import FoundFiles

logger = logging.getLogger("tbps")
SHOWN = 5


class SkippedList:
    """The list in the file `INDEX.left-out.json`; a missing or damaged one is an empty one."""

    def __init__(self, index: Path) -> None:
        self.index, self.path = index, index.with_name(index.name + ".left-out.json")
        self.entries = {entry.path: entry for entry in _read(self.path)}

    def knows(self, there: FoundFiles) -> NDArray[np.bool_]:
        """Which of these files were tried before and have not changed since."""
        return there.in_state({path: (entry.size, entry.mtime) for path, entry in self.entries.items()})

    def keep(self, there: FoundFiles, new: Iterable[Skipped]) -> None:
        """Forget what is gone or changed, add what is new, and write the list when it differs."""
        fresh = {entry.path: entry for entry in new}
        if self._still(there) | fresh == self.entries:
            return
        try:
            with locked(self.index, alone=True):
                self.entries = {entry.path: entry for entry in _read(self.path)}  # others may have added to it
                self.entries = self._still(there) | fresh
                self._write()
        except TbpsError as error:
            logger.debug("%s cannot be written: %s", self.path, error)
            self.entries = self._still(there) | fresh

    def _still(self, there: FoundFiles) -> dict[str, Skipped]:
        """The entries of files that are as they were."""
        return {path: self.entries[path] for path in there.take(self.knows(there)).paths}

    def _write(self) -> None:
        """Best effort: without the list a broken file is only tried again."""
        try:
            if not self.entries:
                self.path.unlink(missing_ok=True)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps([vars(entry) for entry in self.entries.values()], indent=0)
            files.write_text(self.path, text + "\n")
        except (OSError, TbpsError) as error:
            logger.debug("%s cannot be written: %s", self.path, error)


def _read(path: Path) -> list[Skipped]:
    try:
        entries = [Skipped(**entry) for entry in json.loads(path.read_text("utf-8"))]
        for entry in entries:
            encoded(entry.path)
        return entries
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def warn_of_skipped(title: str, entries: list[Skipped]) -> None:
    """One warning for all of them: how many, and the first few with their reasons."""
    if not entries:
        return
    few = "; ".join(f"{entry.path} ({entry.reason})" for entry in entries[:SHOWN])
    more = f"; and {len(entries) - SHOWN:,} more" if len(entries) > SHOWN else ""
    plural = "file is" if len(entries) == 1 else "files are"
    logger.warning("%s: %s %s left out: %s%s.", title, f"{len(entries):,}", plural, few, more)
