"""Calibrates a model on val and measures on another split what came of it: `tbps eval --calibration`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tbps_cli.data.types import Dataset
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.models.checkpoint import Checkpoint, open_encoder
from tbps_cli.retrieval.evaluate import Evaluation, Progress, evaluate, find_with_data
from tbps_cli.trust.calibration import Calibration, write_calibration
from tbps_cli.trust.fitting import Covered, Labelled, Reliability, covered, fit, reliability

FITTED_ON = "val"
LEVELS = (0.8, 0.9, 0.95)
"""Of the sets that are measured."""


@dataclass(frozen=True)
class Calibrated:
    """A calibration, where it lies, and how it did on a split that it has not seen."""

    evaluation: Evaluation
    calibration: Calibration
    place: Path
    hits: Reliability
    first: Reliability
    sets: list[Covered]
    shifted: tuple[float, float] | None

    def document(self) -> dict[str, object]:
        """The findings as `tbps eval --calibration --json` prints them."""
        made = self.calibration
        return {
            **self.evaluation.origin(),
            "fitted": {
                "split": made.split,
                "captions": made.captions,
                "images": made.images,
                "persons": made.persons,
                "temperature": made.temperature,
                "file": str(self.place),
            },
            "hits": self.hits.document(),
            "first_hit": self.first.document(),
            "sets": [vars(one) for one in self.sets],
            "differs": self.shifted is not None,
            "protocol": self.evaluation.protocol.document(),
        }


def calibrate(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    data: Dataset | str | None = None,
    split: str = "test",
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    batch: int | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Fit on val, keep the calibration beside the weights, and measure it on `split`.

    checkpoint to workers: as `retrieval.evaluate.evaluate` takes them. progress: called with (done, total) over
    captions and images of both splits. Raises UsageError for val itself, DataError for a data set without val or with
    too few persons in it, WeightsError where the calibration cannot be written.
    """
    check_split(split)
    owner, data = find_with_data(checkpoint, data, split, sets=sets, data_root=data_root)
    parts = [data.split(name) for name in (FITTED_ON, split)]
    model = open_encoder(owner, device=device, words=words, data_root=data_root)
    if model.batch_dependent:
        raise UsageError(f"--calibration: {model.batch_dependent}", "One score of this form says nothing by itself.")
    told = progress or (lambda done, total: None)
    amounts = [len(part.captions) + len(part.paths) for part in parts]
    on_val, on_test = (
        evaluate(
            model,
            data,
            part.name,
            batch=batch,
            cache_dir=cache_dir,
            workers=workers,
            progress=partial(_told_from, told, sum(amounts[:number]), sum(amounts)),
        )
        for number, part in enumerate(parts)
    )
    made = fit(_labelled(on_val), fingerprint=model.fingerprint, data=data.name, name=FITTED_ON)
    place = write_calibration(model, made)
    tested = _labelled(on_test)
    hits, first = reliability(made, tested)
    measured = [covered(made.rule, tested, level) for level in LEVELS if level <= made.most]
    return Calibrated(on_test, made, place, hits, first, measured, made.shifted(tested.image_GE))


def check_split(split: str) -> None:
    """Raises UsageError for the split that calibrations are fitted on."""
    if split == FITTED_ON:
        said = f"--calibration: it is fitted on {FITTED_ON}, so {FITTED_ON} cannot show how good it is."
        raise UsageError(said, "Leave --split out: then it is measured on test.")


def _told_from(told: Progress, begun: int, total: int, done: int, _: int) -> None:
    told(begun + done, total)


def _labelled(evaluation: Evaluation) -> Labelled:
    embedded, split = evaluation.embedded, evaluation.split
    return Labelled.of(embedded.text_QE, embedded.image_GE, split.caption_person, split.image_person)
