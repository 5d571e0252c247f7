"""What was found out once and would take seconds to find out again: small facts in the cache, by what they depend on.

The hash of a file's weights is one, which way of embedding is fastest on this machine another. Nothing depends on them
being there: a fact that cannot be read or written is found out again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tbps_cli import files
from tbps_cli.errors import TbpsError
from tbps_cli.places import cache_dir

logger = logging.getLogger("tbps")

FOLDER = "remembered"
_SETTLED = 2_000_000_000
"""Nanoseconds since a file's last change after which another change would show in its time."""


def recall(kind: str, key: object) -> dict[str, Any] | None:
    """What was remembered under a key (anything that JSON can say), or None."""
    try:
        found = json.loads(_place(kind, key).read_text("utf-8"))
    except (OSError, ValueError, RecursionError, TbpsError):
        return None
    return found["fact"] if isinstance(found, dict) and isinstance(found.get("fact"), dict) else None


def remember(kind: str, key: object, fact: Mapping[str, Any]) -> None:
    """Keep a fact; where that is impossible, it is found out again next time."""
    try:
        path = _place(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps({"fact": dict(fact), "key": key}) + "\n")
    except (OSError, TbpsError) as error:
        logger.debug("%s is not remembered: %s", kind, error)


def state_of_file(path: Path) -> list[object] | None:
    """What tells a file from any other and from itself at another time; None while it may still be changing."""
    try:
        real = path.resolve(strict=True)
        state = real.stat()
    except OSError:
        return None
    now, changed = time.time_ns(), state.st_mtime_ns
    if changed > now:  # set by hand, or by a clock that was wrong: when its entry changed, nobody sets
        changed = state.st_ctime_ns
    if now - changed < _SETTLED:
        return None
    return [os.fspath(real), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _place(kind: str, key: object) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / FOLDER / kind / f"{digest[:32]}.json"
