"""Answers that hold the person with a given probability (`--sure`), and the figures beside every hit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.amounts import amount
from tbps_cli.errors import UsageError, WeightsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.models.checkpoint import Checkpoint
from tbps_cli.searching.query import Query
from tbps_cli.trust.judge import DownTo, Judge
from tbps_cli.trust.kept import folder_of, place_of
from tbps_cli.trust.population import Population

if TYPE_CHECKING:
    from tbps_cli.trust.calibration import Calibration
    from tbps_cli.trust.conformal import Verdict

logger = logging.getLogger("tbps")


@dataclass(frozen=True)
class Sure:
    """What is certain of one search."""

    verdict: Verdict
    best: float
    """The score of the first hit."""
    images: int
    """How many images were ranked."""
    size: int
    """Images in the set; 0 where there is no confident match."""

    @property
    def lowest(self) -> float:
        """The score down to which images belong to the set: above all scores where there is no confident match."""
        return float("inf") if self.verdict.refused else self.verdict.threshold

    def sentence(self, shown: int) -> str:
        """What it means. shown: how many images of the set are shown."""
        asked = f"(--sure {self.verdict.level:g})"
        if not self.verdict.refused:
            rest = f"; the first {shown} are shown, --top {self.size} shows all" if shown < self.size else ""
            among = f"one of {self.size:,} images" if self.size > 1 else "this image"
            return f"The person is in {among}, if anywhere in the gallery {asked}{rest}."
        if self.best < self.verdict.stranger:
            often = f"{100 * self.verdict.by_chance:.0f} % of searches"
            return (
                f"No confident match {asked}: the best image scores {self.best:.3f}, and so does the best of "
                f"{amount(self.images, 'image')} of strangers in {often}."
            )
        return (
            f"No confident match {asked}: the best image scores {self.best:.3f}, and people who are there score "
            f"{self.verdict.threshold:.3f} or more."
        )

    def document(self) -> dict[str, Any]:
        """As `tbps search --json` prints it."""
        return {
            "level": self.verdict.level,
            "confident": not self.verdict.refused,
            "size": self.size,
            "lowest_score": round(self.verdict.threshold, 6),
            "best_score": round(self.best, 6),
            "strangers_score_as_high": round(self.verdict.by_chance, 4),
            "present_refused": round(self.verdict.present_refused, 4),
        }


def check_sure(sure: float | None, queries: Sequence[Query]) -> None:
    """Raises UsageError for a probability or a query that sets cannot be made for."""
    if sure is None:
        return
    from tbps_cli.trust.conformal import check_level

    check_level(sure)
    if not all(query.plain for query in queries):
        raise UsageError(
            "--sure is for a sentence alone: nothing else was calibrated.",
            'Leave the other parts out; a "no ..." in the sentence is one, unless you add --plain-query.',
        )


def require_calibration(owner: Encoder | Checkpoint, sure: float | None) -> None:
    """Raises WeightsError where `--sure` has no calibration to go by, as far as that shows before weights are read."""
    folder = folder_of(owner.path)
    if sure is not None and folder is not None and not folder.is_file():
        raise _uncalibrated(str(owner.path), sure)


def judge_of(
    model: Encoder,
    vector_GE: NDArray[Any],
    place_K: NDArray[np.int64] | None,
    sure: float | None,
    *,
    quiet: bool = False,
    down_to: DownTo | None = None,
    sample: Population | None = None,
) -> Judge:
    """The judge of all searches of one model in one gallery; says where the gallery is unlike the calibration's.

    down_to, sample: as in `Judge`.

    Raises WeightsError where `--sure` has no calibration to go by, UsageError where that knows too few people.
    """
    try:
        known = _calibration_of(model)
    except WeightsError as error:
        if sure is not None:
            raise
        logger.warning("%s %s", error.message, error.hint)  # a search needs none
        known = None
    if sure is not None:
        if known is None:
            raise _uncalibrated(str(model.path), sure)
        from tbps_cli.trust.conformal import check_level

        check_level(sure, known.most)
    judge = Judge(vector_GE, place_K, known, down_to, sample)
    if not quiet and (unlike := judge.shifted()):
        logger.warning(
            "the images of this gallery score unlike those of the calibration (distance %.2f, usual are up to %.2f): "
            "probabilities and --sure may be wrong here",
            *unlike,
        )
    return judge


def _calibration_of(model: Encoder) -> Calibration | None:
    """What is known of a model's scores; reading it is imported where there is something to read."""
    if not place_of(model).is_file():
        return None
    from tbps_cli.trust.calibration import calibration_of

    return calibration_of(model)


def surely(judge: Judge, query_E: NDArray[np.float32], score_K: NDArray[Any], sure: float | None) -> Sure | None:
    """What is certain of one search, given its best scores; None where nothing was asked or ranked."""
    if sure is None or not len(score_K):
        return None
    best, images = float(score_K[0]), judge.candidates.size
    verdict = judge.verdict(sure, best)
    size = 0 if verdict.refused else judge.reaching(query_E, verdict.threshold)
    return Sure(verdict, best, images, size)


def _uncalibrated(name: str, sure: float) -> WeightsError:
    return WeightsError(
        f"--sure {sure:g}: {name} was never calibrated as it is, so no probability is known.",
        f"Once, with a labelled data set: tbps eval --calibration --ckpt {name}",
    )
