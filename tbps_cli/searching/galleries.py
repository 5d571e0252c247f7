"""Galleries with a name: `tbps index --gallery station platform1/ platform2.mp4`, then `--in station`.

A gallery is a small file below the cache folder that says what its sources are; its index lies with the others.
`tbps cache` never removes that file, so a gallery whose index was removed is made again.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tbps_cli import files
from tbps_cli.databases.urls import shown_place
from tbps_cli.errors import CacheError, DataError, UsageError
from tbps_cli.places import cache_dir
from tbps_cli.searching.sources import STDIN, find_sources

logger = logging.getLogger("tbps")
_NAME = re.compile(r"[\w][\w.-]{0,63}")


def known() -> list[str]:
    """The names of all galleries."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def is_gallery(name: str) -> bool:
    """Whether there is a gallery of this name."""
    return bool(_NAME.fullmatch(name)) and _file(name).is_file()


def named(places: list[str | Path]) -> tuple[str | None, list[str | Path]]:
    """The name of the gallery that is meant, and its sources; a file or folder of that name comes first."""
    if len(places) == 1 and not os.path.lexists(files.expanded(Path(places[0]))) and is_gallery(str(places[0])):
        return str(places[0]), list(sources_of(str(places[0])))
    return None, places


def sources_of(name: str) -> list[str]:
    """The sources of a gallery. Raises DataError when there is none of this name, CacheError for a damaged file."""
    if not is_gallery(name):
        there = ", ".join(known())
        hint = f"There are: {there}." if there else f"Make it: tbps index --gallery {shown_place(name)} FOLDER"
        raise DataError(f"--gallery {shown_place(name)}: there is no gallery of this name.", hint)
    path = _file(name)
    try:
        sources = json.loads(path.read_text("utf-8"))["sources"]
        if not sources or not all(isinstance(source, str) for source in sources):
            raise ValueError("no sources")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"{path} cannot be read as a gallery ({error}).", f"Define it again: tbps index --gallery {name} FOLDER"
        ) from None
    return list(sources)


def define(name: str, sources: Sequence[str | Path]) -> list[str]:
    """Keep what a gallery's sources are; returns them as they are kept.

    Raises UsageError for a name that cannot be, and DataError for a source that is not there: then the gallery stays
    as it was.
    """
    if not _NAME.fullmatch(name) or name.lower().endswith((".h5", ".hdf5")):
        raise UsageError(
            f"--gallery {shown_place(name)}: a name has letters, digits, points, - and _, at most 64.",
            "For example: --gallery station. An index in a file of its own: --index FILE",
        )
    if any(str(source) == STDIN for source in sources):
        raise UsageError(f"--gallery {name}: a list from standard input cannot be read again.", "Write it into a file.")
    find_sources(sources, gallery=name)
    if os.path.lexists(name):
        logger.warning(
            "--in %s means the file or folder %s here, which comes before the gallery of this name.", name, name
        )
    kept = [str(files.expanded(Path(source)).absolute()) for source in sources]
    with files.explained(f"--gallery {name}", CacheError):
        _folder().mkdir(parents=True, exist_ok=True)
    files.write_text(_file(name), json.dumps({"sources": kept}, indent=1) + "\n", CacheError)
    return kept


def _folder() -> Path:
    return cache_dir() / "galleries"


def _file(name: str) -> Path:
    return _folder() / f"{name}.json"
