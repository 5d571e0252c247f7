"""What `tbps doctor --detector` measured, as a person reads it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from tbps_cli.amounts import amount
from tbps_cli.cli.render import line, table

if TYPE_CHECKING:
    from tbps_cli.footage.score import DetectorScore
    from tbps_cli.footage.video import Video

_FEW = 100
"""Persons, below which a share is no more than a hint."""
_MUCH = 0.25
"""By how much the recall of two classes of height must differ to be worth a line."""


def show(score: DetectorScore, video: Video) -> None:
    """The figures, recall by height, and what follows from them."""
    size = f"{video.width} x {video.height} pixels"
    line(f"{score.clip}  {size}, {amount(score.frames, 'frame')} looked at by {score.detector}", style="bold")
    line(f"time: {score.seconds / max(1, score.frames):.2f} s a frame")
    if score.truth is None:
        _without_truth(score)
        return
    line(f"truth: {score.truth}")
    line()
    rows = [
        ["recall", _percent(score.recall), f"{score.found:,} of {amount(score.persons, 'person')} found"],
        [
            "precision",
            _percent(score.precision),
            f"{score.found:,} of {amount(score.boxes, 'box', 'boxes')} on a person",
        ],
        ["mean IoU", _percent(score.mean_overlap), "how well the boxes of those found fit"],
    ]
    table(["measure", "%", "what it is"], rows, right=["%"])
    if score.by_height:
        line()
        rows = [[_class(low), f"{n:,}", _percent(k / n)] for low, (n, k) in sorted(score.by_height.items())]
        table(["height in pixels", "persons", "recall %"], rows, right=["persons", "recall %"])
    for text in _advice(score):
        line()
        line(text)
    _better(score)


def _without_truth(score: DetectorScore) -> None:
    many = score.boxes / max(1, score.frames)
    line(f"persons: {score.boxes:,} boxes, {many:.1f} a frame")
    if score.heights:
        low, middle, high = min(score.heights), round(statistics.median(score.heights)), max(score.heights)
        line(f"heights: {low} to {high} pixels, half of them below {middle}")
    line()
    line("How many of them are persons, and how many were missed, needs a truth file: --truth FILE (JSON of the drawn")
    line("street, or gt.txt of the MOTChallenge).")
    _better(score)


def _better(score: DetectorScore) -> None:
    """What to compare the detector with that needs no weights."""
    from tbps_cli.footage.known_detectors import HOG, PROPOSED

    if score.detector == HOG:
        line()
        line(f"What a detector with weights finds here: --use {PROPOSED} --download")


def _advice(score: DetectorScore) -> list[str]:
    """What follows from the figures."""
    said = []
    shares = {low: found / persons for low, (persons, found) in score.by_height.items() if persons >= 10}
    if len(shares) > 1 and shares[min(shares)] < max(shares.values()) - _MUCH:
        below = _next(min(shares))
        said.append(f"Small persons are missed: below {below} pixels {_percent(shares[min(shares)])} % are found.")
    if score.persons < _FEW:
        many = amount(score.persons, "person is", "persons are")
        said.append(f"{many} few: another clip may give other figures. A smaller --every takes more frames.")
    return said


def _class(low: int) -> str:
    above = _next(low)
    return f"{low} and more" if above is None else f"below {above}" if low == 0 else f"{low} to {above - 1}"


def _next(low: int) -> int | None:
    """The lower end of the next class of height."""
    from tbps_cli.footage.score import HEIGHTS

    return next((height for height in HEIGHTS if height > low), None)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
