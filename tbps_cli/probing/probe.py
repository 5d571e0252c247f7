"""Whether a model notices what a sentence says: captions with one thing changed, beside the true ones.

"People in red" returns people who have red anywhere on them. R@1 hides that, since among other people's images the
right one still comes first; here the image stays the same and the sentence becomes false. The figure is the share of
pairs in which the true caption has the higher score: 50 % is what somebody gets who does not notice the change at all
(equal scores count one half), 100 % what somebody gets who reads and sees. `probing.changes` says how pairs are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.open import truths
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.pipeline import embed_texts
from tbps_cli.models.checkpoint import Checkpoint, open_encoder
from tbps_cli.probing.changes import KINDS, SOURCES, Pair, pairs
from tbps_cli.probing.steady import steady
from tbps_cli.retrieval.embed import feature_file
from tbps_cli.retrieval.evaluate import Evaluation, Progress, evaluate, find_with_data
from tbps_cli.retrieval.interval import LEVEL, RESAMPLES, SEED, check_level, ends, resampled

TIE = 1e-6
"""Scores closer than this are equal: rounding alone moves them so far when words are added in another order."""
EXAMPLES = 3
"""Pairs shown of each kind: those on which the model errs most."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Probed:
    """What a model made of the changed captions of one split."""

    evaluation: Evaluation
    pairs: list[Pair]
    margin_N: NDArray[np.float32]
    """Score of the true caption less that of the changed one."""
    level: float
    seed: int

    @property
    def won_N(self) -> NDArray[np.float64]:
        """1 where the true caption scores higher, 0.5 where both score the same."""
        return np.where(np.abs(self.margin_N) <= TIE, 0.5, self.margin_N > 0).astype(np.float64)

    def document(self) -> dict[str, object]:
        """The findings as `tbps eval --probe --json` prints them."""
        kind_N, source_N = np.array([(pair.kind, pair.source) for pair in self.pairs]).T
        groups = [(kind, source, (kind_N == kind) & (source_N == source)) for kind in KINDS for source in SOURCES]
        return {
            **self.evaluation.origin(),
            "seed": self.seed,
            "level": self.level,
            "changes": [
                {"change": kind, "captions_of": source, **self._share(chosen_N), "examples": self._examples(chosen_N)}
                for kind, source, chosen_N in groups
                if chosen_N.any()
            ],
            "without_pairs": [kind for kind in KINDS if not (kind_N == kind).any()],
            "same_words": self._share(np.array([pair.same_words for pair in self.pairs])),
            "R1": self.evaluation.scores.R1,
            "protocol": steady(self.evaluation),
        }

    def _share(self, chosen_N: Flags) -> dict[str, object]:
        """Percent of the chosen pairs in which the true caption scores higher, with its interval over persons."""
        if not chosen_N.any():
            return {"pairs": 0}
        image_N = np.array([pair.image for pair in self.pairs])[chosen_N]
        row_N = np.unique(self.evaluation.split.class_of[image_N], return_inverse=True)[1]
        won_N = self.won_N[chosen_N]
        sum_PS = np.stack([np.bincount(row_N), np.bincount(row_N, weights=won_N)], axis=1).astype(np.float64)
        drawn_RS = resampled(sum_PS, resamples=RESAMPLES, seed=SEED)
        low, high = ends(100 * drawn_RS[:, 1:] / drawn_RS[:, :1], self.level)[:, 0].tolist()
        return {
            "pairs": len(won_N),
            "persons": len(sum_PS),
            "ties": int((won_N == 0.5).sum()),
            "true_first": 100 * float(won_N.mean()),
            "interval": [low, high],
        }

    def _examples(self, chosen_N: Flags) -> list[dict[str, object]]:
        """The chosen pairs on which the model errs most, worst first; the least certain one if it errs on none."""
        order = np.flatnonzero(chosen_N)[np.argsort(self.margin_N[chosen_N], kind="stable")]
        wrong = [place for place in order.tolist() if self.won_N[place] == 0]
        return [
            {
                "image": self.evaluation.split.paths[pair.image].relative_to(self.evaluation.split.root).as_posix(),
                "true": pair.true,
                "false": pair.false,
                "margin": round(float(self.margin_N[place]), 6),
            }
            for place in (wrong or order.tolist()[:1])[:EXAMPLES]
            for pair in [self.pairs[place]]
        ]


def probe(
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
    level: float = LEVEL,
    seed: int = 0,
    progress: Progress | None = None,
) -> Probed:
    """Score the captions of a split beside captions with one thing changed.

    checkpoint to workers: as `retrieval.evaluate.evaluate` takes them. level: percent of the intervals.
    seed: which of several possible changes are made. progress: called with (done, total) over captions and images.
    Raises DataError for a split without any caption that can be changed.
    """
    check_level(level)
    owner, data = find_with_data(checkpoint, data, split, sets=sets, data_root=data_root)
    made = changed(data, split, seed)
    model = open_encoder(owner, device=device, words=words, data_root=data_root)
    size = batch or model.batch
    evaluation = evaluate(model, data, split, batch=size, cache_dir=cache_dir, workers=workers, progress=progress)
    file = feature_file(model, evaluation.split.root, "probe", size, cache_dir)
    texts = [text for pair in made for text in (pair.true, pair.false)]
    text_NE = embed_texts(model, texts, file, batch=size, progress=progress)
    image_NE = evaluation.embedded.image_GE[[pair.image for pair in made]]
    margin_N = np.einsum("ne,ne->n", text_NE[::2] - text_NE[1::2], image_NE)
    return Probed(evaluation, made, margin_N, level, seed)


def changed(data: Dataset, split: str, seed: int = 0) -> list[Pair]:
    """The pairs of a split. Raises DataError for one without any caption that can be changed."""
    made = pairs(data.split(split), truths(data, split), seed=seed)
    if not made:
        raise DataError(
            f"{data.name} {split}: no caption can be changed, so there is nothing to probe.",
            "Captions must be English and name clothes or bags with their colours, a side or a number.",
        )
    return made
