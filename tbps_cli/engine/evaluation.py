"""Scores of the method under training, to choose its best epoch: text to image, nothing cached.

Every rank embeds its part of the split in whole evaluation batches, the same ones that a single process
would make; the rows are gathered, and rank 0 ranks them and looks for what could falsify them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tbps_cli import distributed
from tbps_cli.data.types import Split
from tbps_cli.engine.experiment import Experiment
from tbps_cli.features.pipeline import EmbedReport
from tbps_cli.models.model import Model
from tbps_cli.retrieval import guard, metrics
from tbps_cli.retrieval.embed import Embedded, embed_split
from tbps_cli.types import Scores


def select_scores(experiment: Experiment, progress: Callable[[int, int], None]) -> tuple[Scores, guard.Guard | None]:
    """The scores on `train.select_on`, on every rank, and on rank 0 what the protocol guard found.

    progress: called with (done, total), captions and images of this rank's part counted together.
    Leaves the method in evaluation mode.
    """
    recipe = experiment.recipe
    split = experiment.dataset.split(recipe.train.select_on)
    model = Model(experiment.method, recipe, Path(), device=experiment.device, tokenizer=experiment.tokenizer)
    text_QE, image_GE = embedded(model, split, recipe.train.eval_batch, progress)
    scores = found = None
    if distributed.current().main:
        scores = metrics.scores(text_QE, image_GE, split.caption_person, split.image_person)
        found = guard.check(model, split, Embedded(text_QE, image_GE, EmbedReport()), warn=False, orders=False)
    return Scores(*distributed.broadcast_object(scores)), found


def embedded(
    model: Model, split: Split, batch: int, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All captions [Q, E] and images [G, E] of a split on every rank, each embedded on one of them."""
    ranks = distributed.current()
    texts = [share(len(split.captions), batch, rank, ranks.world) for rank in range(ranks.world)]
    images = [share(len(split.paths), batch, rank, ranks.world) for rank in range(ranks.world)]
    own = embed_split(model, part(split, texts[ranks.rank], images[ranks.rank]), batch=batch, progress=progress)
    return _joined(own.text_QE, texts, model), _joined(own.image_GE, images, model)


def share(count: int, batch: int, rank: int, world: int) -> range:
    """The rows that one of `world` ranks embeds: contiguous, in whole batches; the first ranks take one more."""
    batches = -(-count // batch)
    first, last = (-(-number * batches // world) * batch for number in (rank, rank + 1))
    return range(min(first, count), min(last, count))


def part(split: Split, texts: range, images: range) -> Split:
    """Some captions and some images of a split, which need not belong together."""
    captions, gallery = slice(texts.start, texts.stop), slice(images.start, images.stop)
    return replace(
        split,
        captions=split.captions[captions],
        paths=split.paths[gallery],
        cameras=split.cameras[gallery],
        times=split.times[gallery],
        image_person=split.image_person[gallery],
    )


def _joined(row_BE: NDArray[np.float32], shares: list[range], model: Model) -> NDArray[np.float32]:
    if not distributed.sharing():
        return row_BE
    # a rank without a batch has rows of no length: all must send the same shape
    own = torch.from_numpy(row_BE.reshape(-1, model.embed)).to(model.device)
    rows = distributed.gather(own, [len(one) for one in shares])
    return rows.cpu().numpy()
