"""A share of a gallery's files: what one of several processes or machines embeds into an index that all of them fill.

Which share a file belongs to follows from its name alone, so nobody hands out work, nobody waits, and the share of a
process that was killed is taken up by whoever runs it again. All crops of a file are in one share with it. Which shares
have begun and finished is noted beside the index, for whoever searches it meanwhile.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.errors import TbpsError, UsageError
from tbps_cli.features.parts import locked
from tbps_cli.searching.sources import Items

logger = logging.getLogger("tbps")


@dataclass(frozen=True)
class WorkShare:
    """Share `number` (from 1 on) of `count`."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> WorkShare:
        """The share that `3/16` means. Raises UsageError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
        if found is None:
            raise UsageError(f"--share {text}: that is no share.", "For the third of 16 processes: --share 3/16")
        number, count = map(int, found.groups())
        if not 1 <= number <= count:
            raise UsageError(
                f"--share {text}: shares of {count} are numbered from 1 to {count}."
                if count
                else f"--share {text}: there must be at least one share.",
                "For the third of 16 processes: --share 3/16",
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"share {self.number} of {self.count}"

    @property
    def first(self) -> bool:
        """Whether this share also drops the rows of files that are gone, and merges."""
        return self.number == 1

    def share_of(self, items: Items) -> NDArray[np.int64]:
        """The number of the share that each file is in."""
        names: list[bytes] = items.found.name_N.tolist()
        for place in np.flatnonzero(items.box_N).tolist():
            names[place] = names[place].rpartition(b"#xywh=")[0]
        sum_N = np.fromiter(map(zlib.crc32, names), np.uint32, len(names))
        return sum_N.astype(np.int64) % self.count + 1


class ShareNotes:
    """The file `INDEX.shares.json`: which shares have begun and finished. Best effort; without it nothing is said."""

    def __init__(self, index: Path) -> None:
        self.index, self.path = index, index.with_name(index.name + ".shares.json")

    def begun(self, share: WorkShare) -> None:
        """Note that a share is being embedded."""
        self._note(share, done=False)

    def nothing_to_do(self, share: WorkShare, others: Iterable[int]) -> None:
        """Note of other shares that all of their files are in the index, whoever embedded them."""
        known = self._read()[1]
        for number in others:
            if not known.get(number, False):
                self._note(WorkShare(number, share.count), done=True)

    def finished(self, share: WorkShare | None) -> None:
        """Note that a share is embedded; None: that everything is, without shares."""
        if share is not None:
            self._note(share, done=True)
        elif self._read()[0]:
            with self._kept():
                self.path.unlink(missing_ok=True)

    def missing(self) -> str | None:
        """Which shares have not begun or not finished, in words; None where nothing is known to be missing."""
        count, done = self._read()
        waited = [number for number in range(1, count + 1) if number not in done]
        running = [number for number, finished in done.items() if not finished]
        kinds = {"not begun": waited, "not finished": running}
        return ", ".join(_told(numbers, count, what) for what, numbers in kinds.items() if numbers) or None

    def _note(self, share: WorkShare, *, done: bool) -> None:
        with self._kept():
            count, known = self._read()
            known = (known if count == share.count else {}) | {share.number: done}
            text = {"count": share.count, "finished": known}
            files.write_text(self.path, json.dumps(text) + "\n")

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Other processes write it as well."""
        try:
            with locked(self.index, alone=True):
                yield
        except (OSError, TbpsError) as error:
            logger.debug("%s cannot be written: %s", self.path, error)

    def _read(self) -> tuple[int, dict[int, bool]]:
        """How many shares there are, and of those that have begun whether they have finished."""
        try:
            text = json.loads(self.path.read_text("utf-8"))
            return int(text["count"]), {int(number): bool(done) for number, done in text["finished"].items()}
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return 0, {}


def _told(numbers: Iterable[int], count: int, what: str) -> str:
    """`shares 1 and 3-5 of 16 have not begun`."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(numbers)), lambda one: one[1] - one[0])]
    ranges = [str(run[0][1]) if len(run) == 1 else f"{run[0][1]}-{run[-1][1]}" for run in runs]
    listed = " and ".join(filter(None, (", ".join(ranges[:-1]), ranges[-1])))
    noun, verb = ("shares", "have") if len(ranges) > 1 or len(runs[0]) > 1 else ("share", "has")
    return f"{noun} {listed} of {count} {verb} {what}"
