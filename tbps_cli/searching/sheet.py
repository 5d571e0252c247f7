"""Answers as one HTML file that needs nothing else: thumbnails inside, right and wrong ones framed.

Each thumbnail is stored once, as a style rule, however often it is shown. Everything that comes from
data (sentences, paths, identities) is escaped; the file runs no script and loads nothing.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tbps_cli.data.images import UnreadableImage, read_image
from tbps_cli.data.types import Person
from tbps_cli.escape import printable
from tbps_cli.retrieval.evaluate import Evaluation
from tbps_cli.retrieval.metrics import Details

Progress = Callable[[int, int], None]

WIDTH, HEIGHT = 64, 160
"""Of a thumbnail, in pixels."""
SHOWN = 10
"""Images beside each query."""
GROUP = 50
"""Queries in each of the groups best and worst."""
MOST = 2000
"""Queries on one sheet; beyond that no browser is pleased."""


@dataclass(frozen=True)
class SheetImage:
    """One image of an answer; `right` is None where the truth is unknown."""

    image: Path
    label: str
    """Shown under the image; the lines after the first are smaller."""
    right: bool | None = None


@dataclass(frozen=True)
class SheetAnswer:
    """One line of a sheet: a query, a remark on how it went, and its places, best first."""

    query: str
    places: Sequence[SheetImage]
    note: str = ""
    own: SheetImage | None = None
    """The image that the sentence was written about."""


@dataclass(frozen=True)
class SheetSection:
    """Answers under one heading; an empty one is not shown."""

    heading: str
    answers: Sequence[SheetAnswer]


def sheet(
    title: str,
    subtitle: str,
    groups: Iterable[SheetSection],
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    progress: Progress | None = None,
) -> str:
    """The whole HTML text.

    size: width and height of a thumbnail in pixels. progress: called with (done, total) over them.
    """
    groups = [group for group in groups if group.answers]
    shown = {place.image: None for group in groups for answer in group.answers for place in _all(answer)}
    number = {image: index for index, image in enumerate(shown)}
    rules = f":root{{--w:{size[0]}px;--h:{size[1]}px}}" + "".join(_rules(list(shown), size, progress))
    body = "".join(
        (f"<h2>{_text(group.heading)}</h2>" if group.heading else "")
        + "".join(_answer(answer, number) for answer in group.answers)
        for group in groups
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{rules}</style></head><body>'
        f"<header><h1>{_text(title)}</h1><p class=sub>{_text(subtitle)}</p></header>{body}</body></html>\n"
    )


def _text(text: str) -> str:
    """Text from data as HTML: in an element or in a quoted attribute."""
    return html.escape(printable(text), quote=True)


def of_evaluation(evaluation: Evaluation, *, progress: Progress | None = None) -> str:
    """The rank sheet of an evaluation, text to image: worst and best queries first, then the others."""
    side, split = evaluation.sides["text_to_image"], evaluation.split
    score_QK, index_QK = side.top(SHOWN)
    details = side.details

    def answer(query: int) -> SheetAnswer:
        person = side.person_Q[query]
        places = [
            SheetImage(
                split.paths[index], f"{score:.3f}\nperson {side.person_G[index]}", side.person_G[index] == person
            )
            for score, index in zip(score_QK[query], index_QK[query], strict=True)
        ]
        own = split.paths[int(split.caption_image[query])]
        return SheetAnswer(split.captions[query], places, _remark(details, query, person), SheetImage(own, "described"))

    order = np.argsort(np.nan_to_num(details.ap_Q, nan=-1.0), kind="stable")
    worst, best, others = _parts(order.tolist())
    hidden = len(order) - len(worst) - len(best) - len(others)
    rest = "The others, in file order" + (f" ({hidden:,} more are not shown)" if hidden else "")
    scores = details.scores()
    subtitle = f"{evaluation.run} · {evaluation.data} {split.name} · {len(split.captions):,} captions, "
    subtitle += f"{len(split.paths):,} images · " + " · ".join(f"{k} {v:.2f}" for k, v in scores._asdict().items())
    subtitle += f" · {evaluation.protocol.line}"
    groups = [
        SheetSection(heading, [answer(query) for query in queries])
        for heading, queries in (("Worst", worst), ("Best", best), (rest, others))
    ]
    return sheet(f"Rank sheet: {evaluation.method}", subtitle, groups, progress=progress)


def _parts(order: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(worst, best, others) of queries ordered from worst to best; every query stands in one of them."""
    size = min(GROUP, len(order) // 2)
    middle = sorted(order[size : len(order) - size])
    return order[:size], order[::-1][:size], middle[: MOST - 2 * size]


def _remark(details: Details, query: int, person: Person) -> str:
    if not details.relevant_Q[query]:
        return f"person {person} · not in the gallery"
    return f"person {person} · first right at {details.first_Q[query]} · AP {100 * details.ap_Q[query]:.1f}"


def _all(answer: SheetAnswer) -> list[SheetImage]:
    return [*([answer.own] if answer.own else []), *answer.places]


def _answer(answer: SheetAnswer, number: dict[Path, int]) -> str:
    own = _figure(answer.own, number, "own") if answer.own else ""
    places = "".join(
        _figure(place, number, {True: "yes", False: "no", None: ""}[place.right]) for place in answer.places
    )
    note = f"<small>{_text(answer.note)}</small>" if answer.note else ""
    words = f"<p>{_text(answer.query)}{note}</p>" if answer.query or note else ""
    return f"<section>{words}<div>{own}{places}</div></section>"


def _figure(place: SheetImage, number: dict[Path, int], kind: str) -> str:
    """An image that leads to its file, with what is known of it."""
    name = _text(place.image.name)
    path = _text(str(place.image))
    first, *rest = (_text(line) for line in place.label.split("\n"))
    small = "".join(f'<span title="{line}">{line}</span>' for line in rest)
    return (
        f'<figure class="{kind}"><a href="{html.escape(place.image.absolute().as_uri(), quote=True)}" title="{path}">'
        f'<i class=t{number[place.image]} role=img aria-label="{name}"></i></a>'
        f"<figcaption>{first}{small}</figcaption></figure>"
    )


def _rules(images: list[Path], size: tuple[int, int], progress: Progress | None) -> Iterable[str]:
    with ThreadPoolExecutor() as pool:
        for index, content in enumerate(pool.map(lambda image: _thumbnail(image, size), images)):
            if progress:
                progress(index + 1, len(images))
            if content:
                yield f".t{index}{{background-image:url(data:image/jpeg;base64,{base64.b64encode(content).decode()})}}"


def _thumbnail(path: Path, size: tuple[int, int]) -> bytes:
    """A small JPEG; empty for an image that cannot be read, which then shows as a grey box."""
    try:
        image = read_image(path, allow_truncated=True)
    except UnreadableImage:
        return b""
    image.thumbnail((4 * size[0], size[1]))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=72)
    return file.getvalue()


STYLE = """
:root{color-scheme:light dark;--yes:#17833a;--no:#c8372d;--line:#8883}
body{font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;margin:0 auto;max-width:1080px;padding:28px 20px 60px}
header{margin-bottom:14px}h1{font-size:24px;line-height:1.25;margin:0;letter-spacing:-.01em}.sub{margin:4px 0 0}
h2{font-size:16px;margin:30px 0 0;padding-bottom:5px;border-bottom:2px solid var(--line)}
.sub,small,figcaption span{color:GrayText}
section{padding:14px 0 16px;border-bottom:1px solid var(--line);content-visibility:auto;
contain-intrinsic-size:auto calc(var(--h) + 90px)}
section:last-child{border:0}
section p{margin:0 0 8px;font-weight:600}small{margin-left:10px;font-weight:400;white-space:nowrap}
section div{display:flex;flex-wrap:wrap;gap:12px 8px;counter-reset:rank}
figure{margin:0;width:calc(var(--w) + 8px);position:relative}
figure i{display:block;width:var(--w);height:var(--h);border:4px solid transparent;border-radius:8px;
background:#0003 center/contain no-repeat padding-box;box-shadow:0 1px 4px #0004}
figure:not(.own)::before{counter-increment:rank;content:counter(rank);position:absolute;left:8px;top:8px;
min-width:1em;padding:0 .35em;text-align:center;font:600 11px/1.6 system-ui,sans-serif;color:#fff;
background:#000a;border-radius:6px}
figcaption{font-size:12px;font-weight:600;text-align:center;margin-top:3px;font-variant-numeric:tabular-nums}
figcaption span{display:block;font-size:11px;font-weight:400;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.yes i{border-color:var(--yes)}.no i{border-color:var(--no)}
.yes figcaption::before{content:"✓ ";color:var(--yes)}.no figcaption::before{content:"✗ ";color:var(--no)}
.yes::before{background:var(--yes)!important}
.own{margin-right:14px}
""".replace("\n", "")
