"""Where things lie on this machine: data sets and caches. Nothing is created here."""

from __future__ import annotations

import os
from pathlib import Path

from tbps_cli.errors import CacheError
from tbps_cli.files import expanded

NO_HOME = "/nonexistent"
"""The home folder of users who have none, as in Debian's table of users."""


def cache_dir() -> Path:
    """The folder of all caches: $TBPS_CACHE_DIR, else the platform's cache folder.

    Containers run as users without a home folder: their cache is a folder of their own among the temporary files.
    Raises CacheError when somebody else made that one.
    """
    stated = os.environ.get("TBPS_CACHE_DIR")
    if stated:
        return expanded(Path(stated))
    if os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~") not in ("~", NO_HOME):  # noqa: PTH111
        import platformdirs

        return Path(platformdirs.user_cache_dir("tbps", appauthor=False))
    import tempfile

    own = Path(tempfile.gettempdir()) / f"tbps-{os.getuid()}"
    if own.is_symlink() or (own.exists() and own.stat().st_uid != os.getuid()):
        raise CacheError(f"cache: {own} belongs to somebody else.", "Set TBPS_CACHE_DIR to a folder of your own.")
    return own


def data_root(stated: str | Path | None = None) -> Path:
    """The folder of the data sets: what was stated, else $TBPS_DATA_ROOT, else ./data."""
    return expanded(Path(stated or os.environ.get("TBPS_DATA_ROOT") or "data"))
