"""What training remembers of every person or every image: one unit vector of each modality.

ECCL's memories. They are filled once before the first epoch, are constants of the losses, and each step leaves its
own embeddings in them. Rows that several pairs of a batch share are renewed several times, in batch order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MemoryBank(nn.Module):
    """`rows` remembered vectors of `embed` numbers, of images and of texts; zeros where nothing was seen."""

    image: Tensor
    text: Tensor

    def __init__(self, rows: int, embed: int) -> None:
        super().__init__()
        self.register_buffer("image", torch.zeros(rows, embed))
        self.register_buffer("text", torch.zeros(rows, embed))

    def initialise(self, generator: torch.Generator) -> None:
        """Nothing is remembered."""
        nn.init.zeros_(self.image)
        nn.init.zeros_(self.text)

    @torch.no_grad()
    def fill(self, image_ME: Tensor, text_ME: Tensor) -> None:
        """Remember the directions of sums (or means) of embeddings; rows of zeros stay such."""
        self.image.copy_(_unit(image_ME))
        self.text.copy_(_unit(text_ME))

    @torch.no_grad()
    def renew(self, image_BE: Tensor, text_BE: Tensor, row_B: Tensor, *, kept: float) -> None:
        """row <- (kept * row + (1 - kept) * embedding), each made unit length, for each pair, one after the other.

        kept: share of the old row; embeddings may have any length.
        """
        image_BE, text_BE = _unit(image_BE), _unit(text_BE)
        for pair_K in _rounds(row_B):
            row_K = row_B[pair_K]
            for memory, new_BE in ((self.image, image_BE), (self.text, text_BE)):
                memory[row_K] = _unit(kept * memory[row_K] + (1 - kept) * new_BE[pair_K])


def _rounds(row_B: Tensor) -> list[Tensor]:
    """The pairs of a batch in rounds in which no row occurs twice: first occurrences, second ones, ..."""
    before_B = (row_B[:, None] == row_B).tril(-1).sum(1)
    return [(before_B == number).nonzero()[:, 0] for number in range(int(before_B.max()) + 1)]


def _unit(x_ME: Tensor) -> Tensor:
    """Rows made unit length in float32; a row of zeros stays one."""
    return F.normalize(x_ME.float(), dim=-1, eps=1e-12)
