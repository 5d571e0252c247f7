"""Whether an int8 export is worth keeping: it must be faster than fp32 here, and lose little of its scores.

Both are measured on the machine that exports. Where operations have no fast int8 form (most convolutions, processors
without VNNI) int8 can take many times as long; then nothing is kept unless that is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Split
from tbps_cli.errors import TbpsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.places import cache_dir, data_root
from tbps_cli.retrieval import metrics
from tbps_cli.retrieval.embed import embed_split
from tbps_cli.types import Scores

logger = logging.getLogger("tbps")
MAX_DROP = 1.0
"""Percentage points of R@1 or mAP that may be lost."""
SLOWER = 0.95
"""Times as fast as fp32 below which int8 counts as slower: closer than that is noise."""


@dataclass(frozen=True)
class ScoresApart:
    """What a split's scores are with the model, and with its int8 graphs."""

    split: str
    before: Scores
    after: Scores

    @property
    def drop(self) -> float:
        """Percentage points that are lost: of R@1 or of mAP, whichever is more."""
        return max(self.before.R1 - self.after.R1, self.before.mAP - self.after.mAP)

    def document(self) -> dict[str, Any]:
        """As the manifest and --json have it."""
        of = {"before": self.before, "after": self.after}
        return {"split": self.split} | {
            name: {"R1": round(scores.R1, 3), "mAP": round(scores.mAP, 3)} for name, scores in of.items()
        }

    def sentence(self) -> str:
        """As the card has it."""
        return (
            f"R@1 {self.after.R1:.2f} and mAP {self.after.mAP:.2f} on {self.split}, with fp32 {self.before.R1:.2f} and "
            f"{self.before.mAP:.2f}"
        )


def check_speed(speed: dict[str, float], *, force: bool) -> None:
    """Raises TbpsError where int8 is slower than fp32 on this machine; with force a line says so instead.

    speed: images and captions -> how many times as fast as fp32.
    """
    slower = [f"{what} take {1 / value:.1f} times as long" for what, value in speed.items() if value < SLOWER]
    if not slower:
        return
    said = f"export: with int8, {' and '.join(slower)} on this machine; what it saves is size"
    if not force:
        raise TbpsError(f"{said}. Nothing was kept.", "Leave --quantize out; or keep it all the same: --force")
    logger.warning("%s.", said)


def check_scores(
    model: Encoder, quantised: Encoder, root: str | Path | None, *, max_drop: float, force: bool
) -> ScoresApart | None:
    """The scores of both on the test split of the model's own data set; None, with a line, where that is not here.

    Raises TbpsError where more than max_drop percentage points of R@1 or mAP are lost, unless forced.
    """
    try:
        part = open_dataset(model.data or "", data_root(root)).split("test")
    except TbpsError as error:
        logger.warning("export: what int8 costs in R@1 is not known here, because %s", error.message)
        return None
    score: Callable[[Encoder], Scores] = lambda encoder: _scores(encoder, part)  # noqa: E731
    found = ScoresApart(f"{part.dataset} {part.name}", score(model), score(quantised))
    if found.drop > max_drop:
        said = f"export: int8 loses {found.drop:.2f} percentage points: {found.sentence()}"
        if not force:
            raise TbpsError(
                f"{said}; {max_drop:g} are allowed. Nothing was kept.", "Allow more: --max-drop; or --force"
            )
        logger.warning("%s.", said)
    return found


def _scores(encoder: Encoder, part: Split) -> Scores:
    embedded = embed_split(encoder, part, cache_dir=cache_dir(), batch=encoder.batch)
    found = metrics.details(embedded.text_QE, embedded.image_GE, part.caption_person, part.image_person)
    return found.scores()
