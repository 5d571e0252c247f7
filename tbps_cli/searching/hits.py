"""What becomes of hits: one HTML file to look at, or copies of the images in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli import files
from tbps_cli.amounts import amount
from tbps_cli.errors import TbpsError
from tbps_cli.escape import printable
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.ranking import Answer
from tbps_cli.types import Hit

if TYPE_CHECKING:
    from tbps_cli.searching import sheet

LARGE, SEVERAL = (158, 380), (88, 216)
"""Width and height in pixels of thumbnails: six fill a line for one search, ten for several."""


def page(
    answers: Sequence[Answer], gallery: Gallery, run: str, *, progress: Callable[[int, int], None] | None = None
) -> str:
    """All answers as one self-contained HTML text; right and wrong hits are framed where the truth is known."""
    from tbps_cli.searching import sheet

    single = len(answers) == 1
    title = str(answers[0].query) if single else f"{len(answers):,} searches"
    where = "" if answers[0].candidates == len(gallery) else f"{answers[0].candidates:,} of "
    facts = [gallery.name, f"{where}{amount(len(gallery), 'image')}", run]
    if single and (remark := _remark(answers[0])):
        facts.append(remark)
    group = sheet.SheetSection("", [_answer(one, single) for one in answers])
    size = LARGE if single else SEVERAL
    return sheet.sheet(title, " · ".join(facts), [group], size=size, progress=progress)


def _answer(answer: Answer, single: bool) -> sheet.SheetAnswer:
    from tbps_cli.searching import sheet

    places = [sheet.SheetImage(hit.file, label(hit), answer.is_right(hit)) for hit in answer.hits]
    return sheet.SheetAnswer("" if single else str(answer.query), places, "" if single else _remark(answer))


def _remark(answer: Answer) -> str:
    """What is to be said of the hits as a whole."""
    if not answer.hits:
        return "no image fits"
    marks = [mark for hit in answer.hits if (mark := answer.is_right(hit)) is not None]
    if answer.persons is None or not marks:
        return ""
    right = sum(marks)
    persons = ", ".join(sorted(map(str, answer.persons)))
    return f"person {persons}: {right} of the first {len(marks)} are right"


def label(hit: Hit) -> str:
    """What stands below a hit: its score, who it is or the file's name, then where and when it was taken."""
    path = Path(hit.path)
    lines = [f"{hit.score:.3f}", path.name if hit.person is None else f"person {hit.person}"]
    folder = str(path.parent) if path.parent != Path() else ""
    if known := [part for part in (folder, hit.camera, hit.time) if part]:
        lines.append(" · ".join(known))
    return "\n".join(map(printable, lines))


def copy_hits(answers: Sequence[Answer], folder: Path) -> int:
    """Copy the hits' files as RANK-NAME, several queries into folders 001, 002, ...; returns how many."""
    copied = 0
    for number, answer in enumerate(answers, 1):
        into = folder if len(answers) == 1 else folder / f"{number:03d}"
        for hit in answer.hits:
            source = hit.file
            try:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, into / files.shortened(f"{hit.rank:03d}-{source.name}"))
            except OSError as error:
                said = f"--copy-to {folder}: {source} cannot be copied: {files.reason(error)}."
                raise TbpsError(said, files.hint(error)) from None
            copied += 1
    return copied
