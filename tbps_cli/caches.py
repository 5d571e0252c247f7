"""What lies in the cache folder, and how to delete it, for `tbps cache`.

Only the folders that are ours are looked into, so a cache folder that holds other things too is safe.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

KINDS = "features", "indexes", "detections", "weights", "remembered", "towers", "thumbnails", "streams", "given"
"""The folders below the cache that are ours: embedded images, searched folders, persons found in videos, downloads,
small facts, text towers of runs as graphs, thumbnails, recordings of streams that are watched, lists of what databases
were given."""

_DAY = 86_400.0


@dataclass(frozen=True)
class Cached:
    """One file or folder directly below one kind of cache; size in bytes, age since its last change."""

    kind: str
    path: Path
    size: int
    age_days: float

    def document(self) -> dict[str, object]:
        """The entry as JSON-able values."""
        return {"kind": self.kind, "path": str(self.path), "size": self.size, "age_days": round(self.age_days, 2)}


def cached(root: Path) -> list[Cached]:
    """Everything in the caches below `root`, the largest first."""
    found = [_measured(kind, item) for kind in KINDS if (root / kind).is_dir() for item in (root / kind).iterdir()]
    return sorted(found, key=lambda entry: (-entry.size, str(entry.path)))


def remove(entries: Iterable[Cached]) -> None:
    """Delete entries; a link goes, what it points to stays."""
    for entry in entries:
        if entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink(missing_ok=True)


def _measured(kind: str, path: Path) -> Cached:
    inside = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    states = [item.lstat() for item in inside]
    age = (time.time() - max(state.st_mtime for state in states)) / _DAY
    return Cached(
        kind, path, sum(state.st_size for state, item in zip(states, inside, strict=True) if not item.is_dir()), age
    )
