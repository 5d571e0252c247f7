"""What an index remembers besides its rows: how persons are found in its videos, and which videos are done."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from tbps_cli import files
from tbps_cli.data.types import Person
from tbps_cli.errors import TbpsError
from tbps_cli.features.parts import locked
from tbps_cli.searching.sources import Item

logger = logging.getLogger("tbps")
EVERY = 1.0
"""Seconds between the frames of a video that are looked at."""


@dataclass(frozen=True)
class FootageSettings:
    """How persons are found in videos and whole frames; what is None is as the index remembers it, else the default."""

    detect: bool | None = None
    """Whether images are whole frames to find persons in (True), or videos are left out too (False).

    Neither: persons are found in videos, and images are crops of one person each."""
    every: float | None = None
    """Seconds between the frames that are looked at; default `EVERY`."""
    detector: str | None = None
    """The name or path of a detector; default the best one that is at hand."""
    pattern: str | None = None
    """How names of files tell camera and time."""

    def after(self, remembered: FootageSettings) -> FootageSettings:
        """This one, with what it leaves open as another one had it."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return replace(remembered, **given)


class IndexingGiven(TypedDict):
    """What `index` and its like take by name, beside the model and the sources."""

    footage: FootageSettings
    download: bool
    precision: str
    workers: int | None


@dataclass(frozen=True)
class DoneVideo:
    """A video or frame whose persons are all in the index: the file as it was, and how they were found."""

    size: int
    mtime: int
    content: str
    every: float
    detector: str
    camera: str | None = None
    time: str | None = None
    person: Person | None = None
    rows: int = 1
    """How many persons were found."""


def detector_key(name: str) -> str:
    """What tells one detector from the next without opening it: its name, and of a file its size and last change."""
    try:
        state = os.stat(name)  # noqa: PTH116 - a name that no file system allows is no file
    except (OSError, ValueError):
        return name
    return f"{name} ({state.st_size}, {state.st_mtime_ns})"


class IndexState:
    """The file `INDEX.sources.json`; a missing or damaged one remembers nothing, which costs time only."""

    def __init__(self, index: Path) -> None:
        self.index = index
        self.path = index.with_name(index.name + ".sources.json")
        self.footage, self.done, self.conventions = _read(self.path)

    def names_as_now(self, footage: FootageSettings) -> bool:
        """Whether the names of files were read as they are now, so that what they say is in the rows."""
        return (self.footage.pattern, self.conventions) == (footage.pattern, _conventions())

    def is_done(self, item: Item, footage: FootageSettings) -> bool:
        """Whether the persons of a file were found before, in the same way, and it has not changed since."""
        done = self.done.get(item.path)
        return (
            done is not None
            and (done.size, done.mtime) == item.found.state
            and (done.camera, done.time, done.person) == item.facts[:3]
            and (footage.every or EVERY) == done.every
            and (footage.detector is None or detector_key(footage.detector) == done.detector)
        )

    def remember(self, footage: FootageSettings) -> None:
        """Keep how persons are found, and how names are read, for the next time."""
        if footage != self.footage or self.conventions != _conventions():

            def change() -> None:
                self.footage, self.conventions = footage, _conventions()

            self._change(change)

    def finished(self, path: str, done: DoneVideo) -> None:
        """Note that all persons of a file are in the index."""
        self._change(lambda: self.done.__setitem__(path, done))

    def forget_others(self, there: Iterable[str]) -> None:
        """Drop the notes on files that are no longer there."""
        wanted = set(there)
        if not self.done.keys() <= wanted:
            self._change(lambda: [self.done.pop(path) for path in self.done.keys() - wanted])

    def _change(self, change: Any) -> None:
        """Change what the file holds now: another process may have written it since. Best effort."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.index, alone=True):
                self.footage, self.done, self.conventions = _read(self.path)
                change()
                done = {path: asdict(done) for path, done in self.done.items()}
                text = {**asdict(self.footage), "names": self.conventions, "done": done}
                files.write_text(self.path, json.dumps(text, indent=0) + "\n")
        except (OSError, TbpsError) as error:
            logger.debug("%s cannot be written: %s", self.path, error)
            change()


def _conventions() -> int:
    from tbps_cli.data import file_names  # its patterns take a moment to compile: a search in an index reads no names

    return file_names.CONVENTIONS


def _read(path: Path) -> tuple[FootageSettings, dict[str, DoneVideo], int]:
    try:
        text = json.loads(path.read_text("utf-8"))
        footage = FootageSettings(**{field.name: text.get(field.name) for field in fields(FootageSettings)})
        done = {name: DoneVideo(**entry) for name, entry in text.get("done", {}).items()}
        return footage, done, int(text.get("names", 1))
    except (OSError, ValueError, TypeError, AttributeError):
        return FootageSettings(), {}, 1
