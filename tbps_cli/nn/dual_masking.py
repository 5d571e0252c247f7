"""GA-DMS's two masked views of a caption, drawn from scores that an earlier epoch has found of its words.

Zheng et al., EMNLP 2025, arXiv 2509.09118. The scores are a buffer, so that a run that was killed goes on with them.
The released code keeps a table in each process and the sampler hands captions to another one in every epoch: with
eight processes 30 % of the draws of the tenth epoch still use the first score. Here every process has all scores.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tbps_cli.nn.dropout import row_seeds
from tbps_cli.text.masking import dual_masks

FIRST = 0.85
"""The score of every word until its caption was trained on: all informative, none noise."""


class MaskedViews(NamedTuple):
    """Captions of T tokens, masked twice, int64."""

    noise_BT: Tensor
    """Without words of low scores."""
    masked_BT: Tensor
    """Without words of high scores."""
    label_BT: Tensor
    """What `masked_BT` hides, 0 elsewhere."""


class DualMasking(nn.Module):
    """Draws both views of training captions, and remembers what each word's score is.

    captions: how many are trained on; with 0 nothing is remembered and every word has the first score. context: their
    length in tokens. mask: its id, the lowest special one. The limits are the highest chances of a word to be hidden.
    """

    word_scores: Tensor | None
    """[captions, context], 0 to 1; of start, end and padding too, where they mean nothing."""

    def __init__(self, captions: int, context: int, *, mask: int, informative_limit: float, noise_limit: float) -> None:
        super().__init__()
        self.mask, self.informative_limit, self.noise_limit = mask, informative_limit, noise_limit
        self.register_buffer("word_scores", torch.full((captions, context), FIRST) if captions else None)
        self._found: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def draw(self, token_BT: Tensor, sample_B: Tensor) -> MaskedViews:
        """The views of whole captions, which are these of all training captions.

        Draws belong to the rows' places in the batch, as those of dropout do.
        """
        known_NT = self.word_scores
        score_BT = torch.full_like(token_BT, FIRST, dtype=torch.float32) if known_NT is None else known_NT[sample_B]
        # copied together, since a GPU makes the CPU wait for each copy; float32 holds every id
        both = torch.stack([token_BT.to(score_BT.dtype), score_BT], dim=1).cpu()
        rows = zip(both[:, 0].long().tolist(), both[:, 1].tolist(), row_seeds(len(both)), strict=True)
        views = [self._masked(ids, scores, random.Random(seed)) for ids, scores, seed in rows]
        return MaskedViews(*(torch.tensor(view, device=token_BT.device) for view in zip(*views, strict=True)))

    def _masked(self, ids: list[int], scores: list[float], rng: random.Random) -> tuple[list[int], ...]:
        limits = {"informative_limit": self.informative_limit, "noise_limit": self.noise_limit}
        found = dual_masks(ids, scores, rng, mask=self.mask, first_special=self.mask, **limits)
        return found.noise, found.masked, found.labels

    def find(self, sample_B: Tensor, score_BT: Tensor) -> None:
        """Note the scores of a batch; they count when the step is taken, since its chunks draw their masks again."""
        self._found.append((sample_B, score_BT))

    def forget(self) -> None:
        """Drop what was noted and did not become a step."""
        self._found.clear()

    def keep(self) -> None:
        """Remember what was noted."""
        if self.word_scores is not None:
            for sample_B, score_BT in self._found:
                self.word_scores[sample_B] = score_BT
        self.forget()

    def initialise(self, generator: torch.Generator) -> None:
        """Nothing is drawn: every word has the first score."""
        if self.word_scores is not None:
            self.word_scores.fill_(FIRST)
