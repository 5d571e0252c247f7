"""Answers as the AI City Challenge takes them (its track of vehicles by natural language, since 2021).

One JSON object: the id of each query -> the ids of the tracks, best first. Queries come in its form too, an object of
ids with several sentences each, which are added up (`searching.queries`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tbps_cli.errors import UsageError
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.ranking import Answer
from tbps_cli.types import Hit


def check_tracks(gallery: Gallery) -> None:
    """Raises UsageError for a gallery without tracks."""
    if not gallery.rows.columns["track"].any():
        raise UsageError(
            f"--format aicity: no image of {gallery.name} belongs to a track.",
            "Tracks come from videos, or from a table with the columns image and track: tbps index tracks.csv",
        )


def ranked_tracks(answers: Sequence[Answer], gallery: Gallery) -> dict[str, list[str]]:
    """Query -> its tracks. A query without an id is called by its number; a track by its name, behind that of its
    source where several sources have a track of this name."""
    columns = gallery.rows.columns
    pairs = set(zip(columns["source"].tolist(), columns["track"].tolist(), strict=True))
    named = [track for _, track in pairs if track]
    unique = len(set(named)) == len(named)
    return {
        answer.query.id or str(number): list(
            dict.fromkeys(_name(hit, unique) for hit in answer.hits if hit.track is not None)
        )
        for number, answer in enumerate(answers, 1)
    }


def _name(hit: Hit, unique: bool) -> str:
    return str(hit.track) if unique or hit.source is None else f"{hit.source}#{hit.track}"
