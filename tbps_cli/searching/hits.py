"""What becomes of hits: one HTML file to look at, or copies of the images in a folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli import files
from tbps_cli.amounts import amount
from tbps_cli.errors import DataError, TbpsError
from tbps_cli.escape import printable
from tbps_cli.filtering.tree import render
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.ranking import Answer
from tbps_cli.searching.timeline import clip_time
from tbps_cli.types import Hit

if TYPE_CHECKING:
    from tbps_cli.searching.sheet import SheetAnswer
    from tbps_cli.searching.thumbnails import Excerpt, ThumbnailCache
    from tbps_cli.searching.timeline import Presence

COPIED_QUALITY = 95
"""Of JPEGs that are written anew."""
WORDS = "the fuller, the more the image supports it; struck through: not at all. Point at a word to see where."
LARGE, SEVERAL = (158, 360), (88, 216)
"""Width and height in pixels of thumbnails: six fill a line for one search, ten for several."""


def page(
    answers: Sequence[Answer],
    gallery: Gallery,
    run: str,
    *,
    filtered: str | None = None,
    blur: bool = False,
    cache: ThumbnailCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """All answers as one self-contained HTML text; right and wrong hits are marked where the truth is known.

    filtered: the filter as it was asked for. blur: no heads, see `searching.blur`. cache: where thumbnails are kept.
    """
    from tbps_cli.searching.sheet import SheetSection, sheet

    single = len(answers) == 1
    first = answers[0]
    ranked = amount(len(gallery), "image")
    facts = [
        ("gallery", gallery.name),
        ("ranked", ranked if first.candidates == len(gallery) else f"{first.candidates:,} of {ranked}"),
        *([("filter", shown)] if (shown := passed(first, filtered) if single else filtered) else []),
        ("model", run),
        *([("result", remark)] if single and (remark := _remark(first)) else []),
        *([("sure", sentence)] if single and (sentence := _sure(first)) else []),
        *([("support", WORDS)] if any(hit.explain for answer in answers for hit in answer.hits) else []),
        ("asked", f"{datetime.now():%Y-%m-%d %H:%M}"),
    ]
    return sheet(
        first.question if single else f"{len(answers):,} searches",
        facts,
        [SheetSection("", [_answer(one, gallery, single, blur) for one in answers])],
        large=single,
        size=LARGE if single else SEVERAL,
        blur=blur,
        cache=cache,
        progress=progress,
    )


def passed(answer: Answer, filtered: str | None) -> str:
    """What images had to pass: the filter as it was asked for, and what the question said of camera and time."""
    said = answer.understood.conditions if answer.understood else None
    if said is None:
        return filtered or ""
    return f"({filtered}) and {render(said)}" if filtered else render(said)


def _answer(answer: Answer, gallery: Gallery, single: bool, blur: bool) -> SheetAnswer:
    from tbps_cli.searching.sheet import SheetAnswer, SheetImage

    places = []
    for hit in answer.hits:
        image, frame = excerpts(hit, gallery, blur=blur)
        name = hit.path if hit.source else ""
        mark = answer.is_right(hit)
        places.append(SheetImage(image, label(hit), mark, name, _worth(hit), hit.rank, frame, hit.explain))
    seen, dated = _seen(answer.hits, gallery)
    note = "" if single else " ".join(filter(None, (_remark(answer), _sure(answer))))
    said = answer.understood.lines if answer.understood else []
    return SheetAnswer("" if single else str(answer.query), places, note, understood=said, seen=seen, dated=dated)


def _worth(hit: Hit) -> list[tuple[str, str]]:
    """What the score is worth, as far as it is known, each figure with what it means."""
    worth = []
    if hit.probability is not None:
        meaning = "how likely this is the person, if the person is in the gallery"
        worth.append((f"{100 * hit.probability:.0f} % likely", meaning))
    if hit.percentile is not None:
        meaning = "images of the gallery that score lower for this query"
        if hit.z is not None:
            meaning += f"; {hit.z:+.1f} standard deviations from their mean"
        worth.append((f"above {hit.percentile:.1f} %", meaning))
    return worth


def _sure(answer: Answer) -> str:
    return answer.sure.sentence(len(answer.hits)) if answer.sure else ""


def excerpts(hit: Hit, gallery: Gallery, *, blur: bool = False) -> tuple[Excerpt, Excerpt | None]:
    """What is shown of a hit: itself, and the whole frame that it is a part of, if any.

    blur: the frame then knows everybody who was found in it.
    """
    from tbps_cli.searching.thumbnails import Excerpt

    content = gallery.content_of(hit.path) if hit.seconds is not None else ""
    image = Excerpt(hit.file, hit.box, hit.seconds, content)
    if hit.source is None:
        return image, None
    persons = tuple(gallery.boxes_in(hit.source, hit.seconds)) if blur else None
    return image, Excerpt(hit.file, None, hit.seconds, content, persons)


def _seen(hits: Sequence[Hit], gallery: Gallery) -> tuple[list[Presence], bool]:
    """When hits of cameras and videos were seen, a track from its first to its last image; and whether as dates.

    The time of a plain image without a camera may be that of a copy: such hits have no place on the line.
    """
    from tbps_cli.searching.timeline import Presence, seconds_of

    placed = [(place, hit) for place, hit in enumerate(hits) if hit.camera is not None or hit.source is not None]
    when = {place: seconds_of(hit.time) for place, hit in placed if hit.time is not None}
    dated = any(moment is not None for moment in when.values())
    seen = []
    for place, hit in placed:
        moment = when.get(place) if dated else hit.seconds
        if moment is None:
            continue
        before, after = gallery.duration_of(hit.source, hit.track, hit.seconds)
        lane = hit.camera or (hit.source or "").rpartition("/")[2]
        seen.append(Presence(place, hit.rank, lane, moment - before, moment + after))
    return seen, dated


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
    path = Path(hit.source or hit.path)
    lines = [f"{hit.score:.3f}", path.name if hit.person is None else f"person {hit.person}"]
    folder = str(path.parent) if path.parent != Path() else ""
    clip = clip_time(hit.seconds) if hit.seconds is not None else None
    track = f"track {hit.track}" if hit.track is not None else None
    group = f"one of {amount(hit.members or 0, 'image')}" if (hit.members or 0) > 1 else None
    date = hit.time and hit.time.replace("T", " ")
    for facts in ((folder, hit.camera, date, clip), (track, group)):
        if known := [fact for fact in facts if fact]:
            lines.append(" · ".join(known))
    return "\n".join(map(printable, lines))


# Copies ---------------------------------------------------------------------------------------


def copy_hits(
    answers: Sequence[Answer], gallery: Gallery, folder: Path, *, whole_frames: bool = False, blur: bool = False
) -> int:
    """Copy the hits into a folder, several queries into folders 001, 002, ...; returns how many.

    A file is copied as RANK-NAME. What was found in a video or frame is cut out of it and written as PNG, or with
    whole_frames as the JPEG of all that was to be seen. blur: no heads, see `searching.blur`; then everything is
    written anew, without what else the file held.
    """
    copied = 0
    for number, answer in enumerate(answers, 1):
        into = folder if len(answers) == 1 else folder / f"{number:03d}"
        for hit in answer.hits:
            try:
                into.mkdir(parents=True, exist_ok=True)
                _copy(hit, gallery, into, whole_frames=whole_frames, blur=blur)
            except (OSError, DataError) as error:
                if not hit.file.exists():
                    said = f"--copy-to {folder}: {hit.file} cannot be copied: it is not there any more."
                    raise DataError(said, f"Search again, or without --no-index. Copied so far: {copied:,}.") from None
                if isinstance(error, DataError):
                    raise
                said = f"--copy-to {folder}: {hit.file} cannot be copied: {files.reason(error)}."
                raise TbpsError(said, files.hint(error)) from None
            copied += 1
    return copied


def _copy(hit: Hit, gallery: Gallery, into: Path, *, whole_frames: bool, blur: bool) -> None:
    if hit.source is None and not blur:
        shutil.copy2(hit.file, into / files.shortened(f"{hit.rank:03d}-{hit.file.name}"))
        return
    image, frame = excerpts(hit, gallery, blur=blur)
    as_jpeg = whole_frames if frame else hit.file.suffix.lower() in (".jpg", ".jpeg")
    name = f"{hit.rank:03d}-{_name_of(hit)}{'.jpg' if as_jpeg else '.png'}"
    pixels = (frame if frame and whole_frames else image).pixels(blur=blur)
    pixels.info.clear()  # comments and profiles of the file it comes from
    pixels.save(into / files.shortened(name), quality=COPIED_QUALITY)


def _name_of(hit: Hit) -> str:
    """The file's own name, with camera and time where it is a part of a video or frame; safe for any disk."""
    path = Path(hit.source or hit.path)
    if hit.source is None:
        return path.stem
    time = f"{hit.seconds:.3f}s" if hit.time is None and hit.seconds is not None else hit.time
    camera = None if hit.camera and hit.camera in path.stem else hit.camera
    parts = [path.stem, camera, time, hit.track and f"track {hit.track}"]
    return re.sub(r"[^\w.+-]+", "-", "-".join(part for part in parts if part))
