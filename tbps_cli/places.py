"""Where things lie on this machine: data sets and caches. Nothing is created here."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from tbps_cli.files import expanded


def cache_dir() -> Path:
    """The folder of all caches: $TBPS_CACHE_DIR, else the platform's cache folder."""
    stated = os.environ.get("TBPS_CACHE_DIR")
    return expanded(Path(stated)) if stated else Path(platformdirs.user_cache_dir("tbps", appauthor=False))


def data_root(stated: Path | None = None) -> Path:
    """The folder of the data sets: what was stated, else $TBPS_DATA_ROOT, else ./data."""
    return expanded(Path(stated or os.environ.get("TBPS_DATA_ROOT") or "data"))
