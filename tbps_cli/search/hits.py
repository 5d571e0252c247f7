"""What becomes of hits: one HTML file to look at, or copies of the pictures in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli.errors import TbpsError, UsageError
from tbps_cli.search.document import file_of, printable
from tbps_cli.search.gallery import Gallery
from tbps_cli.search.query import Answer
from tbps_cli.types import Hit

if TYPE_CHECKING:
    from tbps_cli.search import sheet


def page(
    answers: Sequence[Answer], gallery: Gallery, run: str, *, progress: Callable[[int, int], None] | None = None
) -> str:
    """All answers as one self-contained HTML text; right and wrong hits are framed where the truth is known."""
    from tbps_cli.search import sheet

    known = any(answer.persons is not None for answer in answers)
    title = f"Search: {answers[0].query}" if len(answers) == 1 else f"{len(answers):,} searches"
    subtitle = f"{gallery.name} · {len(gallery):,} pictures · {run}"
    group = sheet.Group("Hits, right and wrong ones framed" if known else "Hits", [_answer(one) for one in answers])
    return sheet.sheet(printable(title), printable(subtitle), [group], progress=progress)


def _answer(answer: Answer) -> sheet.Answer:
    from tbps_cli.search import sheet

    places = [sheet.Place(file_of(hit), _label(hit), answer.is_right(hit)) for hit in answer.hits]
    note = "" if answer.hits else "no picture fits"
    if answer.persons is not None:
        note = "person " + ", ".join(sorted(map(str, answer.persons)))
    return sheet.Answer(printable(str(answer.query)), places, note)


def _label(hit: Hit) -> str:
    return f"{hit.score:.3f}" + ("" if hit.person is None else f" · {hit.person}")


def check_copies(folder: Path) -> None:
    """Raises UsageError unless copies can go to `folder`: a new one, or an empty one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--copy-to {folder}: exists already and is not an empty folder.", "Choose a new folder.")


def copy_hits(answers: Sequence[Answer], folder: Path) -> int:
    """Copy the hits' files as RANK-NAME, several queries into folders 001, 002, ...; returns how many."""
    copied = 0
    for number, answer in enumerate(answers, 1):
        into = folder if len(answers) == 1 else folder / f"{number:03d}"
        for hit in answer.hits:
            source = file_of(hit)
            try:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, into / f"{hit.rank:03d}-{source.name}")
            except OSError as error:
                raise TbpsError(f"--copy-to {folder}: {source} cannot be copied ({error.strerror}).") from None
            copied += 1
    return copied
