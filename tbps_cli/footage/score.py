"""How many persons a detector finds, and how many of its boxes are persons: recall and precision against a truth file.

A box counts as found when it and the true one have half of their joint area in common (IoU 0.5). Boxes are taken from
the surest on, each for the best true box that is left (PASCAL VOC's way). Persons of whom less than a third can be seen
are not asked for; a box on one of them is no mistake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tbps_cli.errors import DataError
from tbps_cli.footage.boxes import Box, Detection
from tbps_cli.footage.detector import Detector
from tbps_cli.footage.frames import about, frames
from tbps_cli.footage.truth import ClipTruth, TrueBox

OVERLAP = 0.5
"""Of two boxes of one person: common area by the area of both together."""

VISIBLE = 0.3
"""Share of a person that must be seen for a detector to be asked for it."""

HEIGHTS = (0, 60, 80, 100, 140, 200)
"""Lower ends of the classes of height, in pixels of the frame."""


@dataclass
class DetectorScore:
    """What a detector did on some frames of a clip."""

    detector: str
    clip: Path
    truth: Path | None
    frames: int = 0
    seconds: float = 0.0
    """Spent in the detector, over all frames."""
    boxes: int = 0
    """That the detector gave; without those on persons that are not asked for, where the truth is known."""
    persons: int = 0
    found: int = 0
    overlap: float = 0.0
    """Sum over those found of the overlap."""
    heights: list[int] = field(default_factory=list)
    """Of the detector's boxes."""
    by_height: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Lower end of a class of height -> (persons, found)."""

    @property
    def recall(self) -> float | None:
        """Share of the persons that were found; None where the truth is unknown or names nobody."""
        return self.found / self.persons if self.truth and self.persons else None

    @property
    def precision(self) -> float | None:
        """Share of the boxes that are on a person; None where the truth is unknown or there are no boxes."""
        return self.found / self.boxes if self.truth and self.boxes else None

    @property
    def mean_overlap(self) -> float | None:
        """Mean overlap (IoU) of the found ones."""
        return self.overlap / self.found if self.found else None

    def document(self) -> dict[str, Any]:
        """The values for JSON; shares between 0 and 1."""
        return {
            "detector": self.detector,
            "clip": str(self.clip),
            "truth": None if self.truth is None else str(self.truth),
            "frames": self.frames,
            "boxes": self.boxes,
            "persons": self.persons if self.truth else None,
            "found": self.found if self.truth else None,
            "recall": _rounded(self.recall),
            "precision": _rounded(self.precision),
            "mean_iou": _rounded(self.mean_overlap),
            "seconds_per_frame": round(self.seconds / max(1, self.frames), 4),
            "by_height": [
                {"from": low, "persons": persons, "found": found, "recall": round(found / persons, 4)}
                for low, (persons, found) in sorted(self.by_height.items())
            ],
        }


def score_detector(
    detector: Detector,
    clip: Path,
    truth: ClipTruth | None,
    *,
    every: float | None = None,
    progress: Callable[[float, float | None], None] | None = None,
) -> DetectorScore:
    """Run a detector over a clip and compare with the truth, frame by frame.

    every: seconds between frames; None takes all. Frames that the truth says nothing about are passed over.
    Raises UnreadableVideo, and DataError when the truth is about no frame of the clip.
    """
    duration = about(clip).duration
    score = DetectorScore(detector.name, clip, truth.path if truth else None)
    for frame in frames(clip, every=every):
        there = truth.at(frame.seconds) if truth else []
        if there is None:
            continue
        begun = time.perf_counter()
        given = detector(frame.image)
        score.seconds += time.perf_counter() - begun
        score.frames += 1
        score.heights += [box[3] for box, _ in given]
        _compare(score, given, there)
        if progress:
            progress(frame.seconds, duration)
    if truth and not score.frames:
        raise DataError(f"{truth.path} says nothing about any frame of {clip}.", "Is it the truth of another video?")
    return score


def _compare(score: DetectorScore, given: Sequence[Detection], there: Sequence[TrueBox]) -> None:
    """Add one frame."""
    asked = [true for true in there if true.counts and true.visible >= VISIBLE]
    ignored = [true for true in there if not (true.counts and true.visible >= VISIBLE)]
    matched: set[int] = set()
    for box, _ in sorted(given, key=lambda one: -one.score):
        shares = [(iou(box, true.box), -place) for place, true in enumerate(asked) if place not in matched]
        share, place = max(shares, default=(0.0, 0))
        if share >= OVERLAP:
            matched.add(-place)
            score.boxes += 1
            score.found += 1
            score.overlap += share
        elif not any(iou(box, true.box) >= OVERLAP for true in ignored):
            score.boxes += 1
    score.persons += len(asked)
    for place, true in enumerate(asked):
        low = max(low for low in HEIGHTS if low <= true.box[3])
        persons, found = score.by_height.get(low, (0, 0))
        score.by_height[low] = persons + 1, found + (place in matched)


def iou(one: Box, other: Box) -> float:
    """Common area of two boxes by the area of both together."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(wide, 0) * max(high, 0)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
