"""Scores of the method under training, to choose its best epoch: text to image, nothing cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tbps_cli.engine.setup import Parts
from tbps_cli.methods.base import Method
from tbps_cli.models.model import Model
from tbps_cli.retrieval import metrics
from tbps_cli.retrieval.encode import embed_split
from tbps_cli.types import Scores


def select_scores(method: Method, parts: Parts, progress: Callable[[int, int], None]) -> Scores:
    """The scores on `train.select_on`; leaves the method in evaluation mode.

    progress: called with (done, total), captions and pictures counted together.
    """
    split = parts.dataset.split(parts.recipe.train.select_on)
    model = Model(method, parts.recipe, Path(), device=parts.device, tokenizer=parts.tokenizer)
    embedded = embed_split(model, split, batch=parts.recipe.train.eval_batch, progress=progress)
    return metrics.scores(embedded.text_QE, embedded.image_GE, split.caption_person, split.picture_person)
