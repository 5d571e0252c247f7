"""How hits can be put together and in order; without numpy, so that the help of `tbps search` needs none."""

from __future__ import annotations

from enum import StrEnum


class GroupedBy(StrEnum):
    """What is one hit."""

    person = "person"
    track = "track"
    source = "source"
    near_duplicate = "near-duplicate"


class SortedBy(StrEnum):
    """In which order the best are shown."""

    score = "score"
    time = "time"
