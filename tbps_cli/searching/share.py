"""A share of a gallery's files: what one of several processes or machines embeds into an index that all of them fill.

Which share a file belongs to follows from its name alone, so nobody hands out work, nobody waits, and the share of a
process that was killed is taken up by whoever runs it again. All crops of a file are in one share with it.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import UsageError
from tbps_cli.searching.sources import Items


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

    def holds(self, items: Items) -> NDArray[np.bool_]:
        """Which files are in this share."""
        names: list[bytes] = items.found.name_N.tolist()
        for place in np.flatnonzero(items.box_N).tolist():
            names[place] = names[place].rpartition(b"#xywh=")[0]
        sum_N = np.fromiter(map(zlib.crc32, names), np.uint32, len(names))
        return sum_N % self.count == self.number - 1
