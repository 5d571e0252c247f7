"""What a list or a table says of one file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tbps_cli.data.types import Person
from tbps_cli.features.rows import Box

HINT = "A path a line; or JSON, JSONL or CSV with `image` and, where known, camera, time, track, person, box."


class FileFacts(NamedTuple):
    """What is known of a file besides its pixels; of a video, `time` is when it begins."""

    camera: str | None = None
    time: str | None = None
    person: Person | None = None
    track: str | None = None
    box: Box | None = None
    """Only this part of the image is meant."""


NOTHING = FileFacts()


class Listed(NamedTuple):
    """A line of a list: where it stands, the file as written, and what is known of it."""

    place: str
    file: Path
    facts: FileFacts
