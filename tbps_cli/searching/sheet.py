"""Answers as one HTML file that needs nothing else: images inside, right and wrong ones marked.

The page is made from `templates/`. Each thumbnail is stored once, as a style rule, however often it is shown.
Whatever comes from data (sentences, paths, persons) is escaped and shown on one line. The page's policy allows
its own styles and its own small script (moving by keys) and nothing else: it loads nothing and sends nothing,
and without scripts everything on it can be read and opened.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from tbps_cli.escape import printable
from tbps_cli.searching.heat_overlay import overlay
from tbps_cli.searching.thumbnails import Excerpt, Thumbnail, ThumbnailCache, thumbnails
from tbps_cli.searching.timeline import Presence, TimeLine, time_line
from tbps_cli.types import WordSupport

Progress = Callable[[int, int], None]

WIDTH, HEIGHT = 64, 160
"""Of a thumbnail, in pixels."""
FRAME = 1120, 840
"""Width and height within which a frame fits, in pixels."""
FRAMES = 60
"""Frames in one file, about 100 KB each; hits beyond that lead to their file."""
FOOTER = "Hits are a ranking, never an identification: several people fit most sentences. A person must look at each."


@dataclass(frozen=True)
class SheetImage:
    """One image of an answer; `right` is None where the truth is unknown."""

    image: Excerpt
    label: str
    """Shown under the image; the lines after the first are smaller."""
    right: bool | None = None
    name: str = ""
    """What it is called; left out, its path."""
    figures: Sequence[tuple[str, str]] = ()
    """Further figures beside the score, each with what it means."""
    rank: int | None = None
    """Left out: its place in the answer."""
    frame: Excerpt | None = None
    """The whole frame in which it was seen; `image.box` is its place there."""
    words: Sequence[WordSupport] = ()
    """The words of the query: what supports them, and where the image has them."""


@dataclass(frozen=True)
class SheetAnswer:
    """One part of a sheet: a query, a remark on how it went, and its places, best first."""

    query: str
    places: Sequence[SheetImage]
    note: str = ""
    own: SheetImage | None = None
    """The image that the sentence was written about."""
    understood: Sequence[tuple[str, str]] = ()
    """What was made of the question, part by part."""
    seen: Sequence[Presence] = ()
    """When places were seen."""
    dated: bool = False
    """Whether that is known as dates; otherwise as time into a video."""


@dataclass(frozen=True)
class SheetSection:
    """Answers under one heading; an empty one is not shown."""

    heading: str
    answers: Sequence[SheetAnswer]


@dataclass(frozen=True)
class _Frame:
    """The frame behind a hit: its number on the page, its size, and the hits before and after that have one too."""

    number: int
    width: int
    height: int
    before: str
    after: str


@dataclass(frozen=True)
class _ShownWord:
    """A word of the query below an image."""

    text: str
    tenths: int
    """How much supports it, of ten; 0: it is struck through."""
    instead: str
    heat: int | None
    """The number of its heat map on the page."""


@dataclass(frozen=True)
class _Shown:
    """A place of an answer as the template writes it."""

    place: SheetImage
    id: str
    mark: str
    number: int
    file: str
    """Its address; empty where the page leads to no file."""
    words: list[_ShownWord]
    frame: _Frame | None = None

    @property
    def lines(self) -> list[str]:
        return self.place.label.split("\n")

    @property
    def path(self) -> str:
        return self.place.name or str(self.place.image.file)

    @property
    def alt(self) -> str:
        return Path(self.path).name

    @property
    def href(self) -> str:
        """What a click leads to: the frame, where it is on the page, or the file."""
        return f"#{self.id}-frame" if self.frame else self.file


@dataclass(frozen=True)
class _Part:
    """An answer as the template writes it."""

    query: str
    note: str
    understood: Sequence[tuple[str, str]]
    line: TimeLine | None
    own: _Shown | None
    places: list[_Shown]


@dataclass
class _Images:
    """The thumbnails of a sheet, each once, and the frames that hits lead to."""

    small: dict[Excerpt, int] = field(default_factory=dict)
    frames: dict[Excerpt, int] = field(default_factory=dict)
    frame_sizes: list[Thumbnail] = field(default_factory=list)
    small_sizes: list[Thumbnail] = field(default_factory=list)
    heats: list[bytes] = field(default_factory=list)
    """Heat maps as PNG, each to lie over one small image."""

    def take(self, place: SheetImage) -> None:
        """Count an image in, and its frame as long as there is room."""
        self.small.setdefault(place.image, len(self.small))
        if place.frame is not None and len(self.frames) < FRAMES:
            self.frames.setdefault(place.frame, len(self.frames))


def sheet(
    title: str,
    facts: Sequence[tuple[str, str]],
    groups: Sequence[SheetSection],
    *,
    kind: str = "Person search",
    figures: Sequence[tuple[str, str]] = (),
    large: bool = False,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    blur: bool = False,
    cache: ThumbnailCache | None = None,
    progress: Progress | None = None,
) -> str:
    """The whole HTML text.

    facts: names and values below the title; figures: the same for a few numbers, shown large. large: one answer fills
    the page. size: width and height of a thumbnail in pixels. blur: heads, and in frames everything outside the boxes;
    the page then leads to no file. cache: where thumbnails are kept. progress: called with (done, total) over them.
    """
    groups = [group for group in groups if group.answers]
    images = _Images()
    for place in (place for group in groups for answer in group.answers for place in _all(answer)):
        images.take(place)
    total = len(images.small) + len(images.frames)
    images.small_sizes = thumbnails(
        list(images.small), (4 * size[0], size[1]), blur=blur, cache=cache, progress=_of_total(progress, 0, total)
    )
    images.frame_sizes = thumbnails(
        list(images.frames), FRAME, blur=blur, cache=cache, progress=_of_total(progress, len(images.small), total)
    )
    parts = [
        [_part(answer, images, f"h{place}x{number}", blur) for number, answer in enumerate(group.answers, 1)]
        for place, group in enumerate(groups, 1)
    ]
    sizes = f":root{{--w:{size[0]}px;--h:{size[1]}px}}"
    made = *_rules("t", images.small_sizes), *_rules("f", images.frame_sizes), *_heat_rules(images.heats)
    rules = "".join((sizes, *made))
    templates = _templates()
    style, script = (Markup(_source(name)) for name in ("sheet.css", "sheet.js"))
    return templates.get_template("sheet.html").render(
        title=title,
        kind=kind,
        facts=facts,
        figures=figures,
        look="one" if large else "many",
        groups=list(zip([group.heading for group in groups], parts, strict=True)),
        framed=[place for answers in parts for answer in answers for place in answer.places if place.frame],
        footer=FOOTER,
        style=style,
        rules=Markup(rules),
        script=script,
        policy=Markup(_policy([style, rules], script)),
    )


def _of_total(progress: Progress | None, before: int, total: int) -> Progress | None:
    return progress and (lambda done, _: progress(before + done, total))


def _all(answer: SheetAnswer) -> list[SheetImage]:
    return [*([answer.own] if answer.own else []), *answer.places]


# What the template writes ---------------------------------------------------------------------


def _part(answer: SheetAnswer, images: _Images, id: str, blur: bool) -> _Part:
    ids = [f"{id}-{rank}" for rank in range(1, len(answer.places) + 1)]
    marks = [{True: "yes", False: "no", None: ""}[place.right] for place in answer.places]
    ranked = [replace(one, rank=one.rank or rank) for rank, one in enumerate(answer.places, 1)]
    places = [_shown(*one, images, blur) for one in zip(ranked, ids, marks, strict=True)]
    return _Part(
        answer.query,
        answer.note,
        answer.understood,
        time_line(answer.seen, ids, marks, dated=answer.dated),
        _shown(answer.own, f"{id}-own", "own", images, blur) if answer.own else None,
        _with_frames(places, images),
    )


def _shown(place: SheetImage, id: str, mark: str, images: _Images, blur: bool) -> _Shown:
    number = images.small[place.image]
    words = _words(place, images, images.small_sizes[number])
    return _Shown(place, id, mark, number, "" if blur else _address(place.image), words)


def _words(place: SheetImage, images: _Images, small: Thumbnail) -> list[_ShownWord]:
    """The words below an image, and their heat maps counted in."""
    most = max((word.support for word in place.words), default=0.0)
    shown = []
    for word in place.words:
        heat = None
        if word.grid is not None and word.support > 0 and small.jpeg:
            heat = len(images.heats)
            images.heats.append(overlay(word.grid, (small.width, small.height)))
        tenths = max(1, round(10 * word.support / most)) if word.support > 0 else 0
        shown.append(_ShownWord(word.word, tenths, word.instead or "", heat))
    return shown


def _with_frames(places: list[_Shown], images: _Images) -> list[_Shown]:
    """The same; those whose frame is on the page and could be read lead to it."""
    numbers = {one.id: images.frames[one.place.frame] for one in places if one.place.frame in images.frames}
    ids = [id for id, number in numbers.items() if images.frame_sizes[number].jpeg]
    frames = {}
    for before, id, after in zip(["", *ids], ids, [*ids[1:], ""], strict=False):
        whole = images.frame_sizes[numbers[id]]
        frames[id] = _Frame(numbers[id], whole.width, whole.height, before, after)
    return [replace(one, frame=frames.get(one.id)) for one in places]


def _address(image: Excerpt) -> str:
    """A file as a link, of a video at its moment."""
    return image.file.absolute().as_uri() + (f"#t={image.seconds:.3f}" if image.seconds is not None else "")


def _rules(letter: str, made: Sequence[Thumbnail]) -> Iterator[str]:
    """A style rule for each thumbnail; an image that cannot be read has none and shows as a grey box."""
    for number, one in enumerate(made):
        if one.jpeg:
            shape = ""
            if letter == "f":
                ratio = f"{one.width}/{one.height}"
                shape = f"aspect-ratio:{ratio};width:min(100%,{one.width}px,calc((100vh - 150px)*{ratio}));"
            image = base64.b64encode(one.jpeg).decode()
            yield f".{letter}{number}{{{shape}background-image:url(data:image/jpeg;base64,{image})}}"


def _heat_rules(heats: Sequence[bytes]) -> Iterator[str]:
    for number, png in enumerate(heats):
        yield f".x{number}{{background-image:url(data:image/png;base64,{base64.b64encode(png).decode()})}}"


# The templates --------------------------------------------------------------------------------


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tbps_cli.searching"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_on_one_line,
        keep_trailing_newline=True,
    )


def _source(name: str) -> str:
    environment = _templates()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _on_one_line(value: object) -> object:
    """Text from data without line breaks, terminal commands and marks that turn the writing around."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(styles: Sequence[str], script: str) -> str:
    """What the page may do, as a Content-Security-Policy: only what is written in it."""
    hashes = " ".join(map(_hash, styles))
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": hashes,
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
