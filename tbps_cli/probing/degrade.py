"""How far a model still finds people when its images get worse: one curve for each way in which they do.

Only the gallery changes, captions stay as they are. Every step is scored on the whole split, with an interval over
persons; all steps take the same resamples, so the summary figure, the mean share of the clean R@1 that is left, has
an interval of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Dataset, Split
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Embeddings, Encoder
from tbps_cli.features.pipeline import embed_images
from tbps_cli.models.checkpoint import Checkpoint, open_encoder
from tbps_cli.probing.degradations import DEGRADATIONS, DegradedEncoder, DegradedTransform
from tbps_cli.probing.steady import steady
from tbps_cli.retrieval import metrics
from tbps_cli.retrieval.embed import AS_PUBLISHED, feature_file, require_all, sources_of
from tbps_cli.retrieval.evaluate import Evaluation, Progress, evaluate, find_with_data
from tbps_cli.retrieval.interval import LEVEL, RESAMPLES, SEED, check_level, ends, figures, resampled, sums


@dataclass(frozen=True)
class Point:
    """A gallery at one step of one degradation."""

    degradation: str
    step: float
    details: metrics.Details


@dataclass(frozen=True)
class Degraded:
    """A model's scores on a split whose images get worse."""

    evaluation: Evaluation
    """With the images as they are."""
    points: list[Point]
    level: float
    seed: int

    def document(self) -> dict[str, object]:
        """The findings as `tbps eval --degrade --json` prints them."""
        clean = self.evaluation.sides["text_to_image"].details
        names = list(dict.fromkeys(point.degradation for point in self.points))
        drawn_RS = self._drawn(clean)
        drawn = {(point.degradation, point.step): self._drawn(point.details) for point in self.points}
        return {
            **self.evaluation.origin(),
            "seed": self.seed,
            "level": self.level,
            "clean": self._scores(clean, drawn_RS),
            "curves": [
                {
                    "degradation": name,
                    "unit": DEGRADATIONS[name].unit,
                    "points": [
                        {
                            "step": point.step,
                            "label": DEGRADATIONS[name].label.format(point.step),
                            **self._scores(point.details, drawn[name, point.step]),
                        }
                        for point in self.points
                        if point.degradation == name
                    ],
                }
                for name in names
            ],
            "kept": self._kept(clean, drawn_RS, list(drawn.values())),
            "protocol": steady(self.evaluation),
        }

    def _drawn(self, details: metrics.Details) -> NDArray[np.float64]:
        """The five scores of every resample of persons, [R, 5]; the same persons for every point."""
        person_Q = self.evaluation.split.caption_person
        return figures(resampled(sums(details, person_Q), resamples=RESAMPLES, seed=SEED))

    def _scores(self, details: metrics.Details, drawn_RS: NDArray[np.float64]) -> dict[str, object]:
        low, high = ends(drawn_RS[:, 0], self.level).tolist()
        return {**details.scores()._asdict(), "interval": [low, high]}

    def _kept(
        self, clean: metrics.Details, drawn_RS: NDArray[np.float64], worse: list[NDArray[np.float64]]
    ) -> dict[str, object] | None:
        """The mean R@1 of all steps in percent of the clean one, with its interval; None where that is 0.

        Resamples of persons whose clean R@1 is 0 have no such share and are left out.
        """
        r1 = clean.scores().R1
        if not r1:
            return None
        mean = float(np.mean([point.details.scores().R1 for point in self.points]))
        found_R = drawn_RS[:, 0] > 0
        share_R = np.mean([one_RS[found_R, 0] for one_RS in worse], axis=0) / drawn_RS[found_R, 0]
        low, high = ends(100 * share_R, self.level).tolist()
        return {"R1": 100 * mean / r1, "interval": [low, high], "steps": len(self.points)}


def degrade(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    data: Dataset | str | None = None,
    split: str = "test",
    *,
    kinds: Sequence[str] = tuple(DEGRADATIONS),
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    batch: int | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    level: float = LEVEL,
    seed: int = 0,
    progress: Progress | None = None,
) -> Degraded:
    """Rank a split's captions against its images in ever worse states.

    checkpoint to workers: as `retrieval.evaluate.evaluate` takes them. kinds: names of `DEGRADATIONS`.
    level: percent of the intervals. seed: of noise, occluders and box errors.
    progress: called with (done, total) over captions and all images in all states.
    Raises UsageError for a degradation that does not exist.
    """
    check_level(level)
    check_kinds(kinds)
    owner, data = find_with_data(checkpoint, data, split, sets=sets, data_root=data_root)
    model = open_encoder(owner, device=device, words=words, data_root=data_root)
    size = batch or model.batch
    part = data.split(split)
    steps = [(name, step) for name in kinds for step in DEGRADATIONS[name].steps]
    told = progress or (lambda done, total: None)
    images = len(part.paths)
    total = len(part.captions) + images * (1 + len(steps))
    evaluation = evaluate(
        model, data, split, batch=size, cache_dir=cache_dir, workers=workers, progress=lambda done, _: told(done, total)
    )
    points = []
    for number, (name, step) in enumerate(steps, 1):
        worse = DegradedEncoder(model, DegradedTransform.of(model.transform, name, step, seed))
        told_here = partial(_told_from, told, len(part.captions) + images * number, total)
        image_GE = _embedded(worse, part, cache_dir, size, workers, told_here)
        details = metrics.details(evaluation.embedded.text_QE, image_GE, part.caption_person, part.image_person)
        points.append(Point(name, step, details))
    return Degraded(evaluation, points, level, seed)


def _told_from(told: Progress, begun: int, total: int, done: int) -> None:
    told(begun + done, total)


def _embedded(
    model: DegradedEncoder,
    part: Split,
    cache_dir: Path | None,
    batch: int,
    workers: int | None,
    told: Callable[[int], None],
) -> Embeddings:
    """The images of a split as the encoder sees them. told: called with the number of images done."""
    sources, file = sources_of(part), feature_file(model, part.root, "images", batch, cache_dir)
    report = embed_images(
        model,
        sources,
        file,
        AS_PUBLISHED,
        batch=batch,
        workers=workers,
        progress=lambda done, todo: told(len(sources) - todo + done),
    )
    require_all(report, len(sources))
    told(len(sources))
    image_GE = file.select([source.name for source in sources])[1].astype(np.float32, copy=False)
    file.compact()
    return image_GE


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises UsageError for a degradation that does not exist, or for none at all."""
    unknown = [name for name in kinds if name not in DEGRADATIONS]
    if unknown or not kinds:
        what = f"{unknown[0]!r} is not a degradation" if unknown else "no degradation is named"
        raise UsageError(f"--degrade: {what}.", f"Known: {', '.join(DEGRADATIONS)}; without any, all of them.")
