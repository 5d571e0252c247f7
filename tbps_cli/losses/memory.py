"""Losses against a memory of the whole training set: one remembered vector a person, or one an image.

ECCL's released code has both. The memory is a constant of the step: gradient flows to the embeddings that are
compared with it alone, and the batch's other modality matters only by what it leaves in the memory afterwards
(`nn.memory_bank`). Everything is computed in float32.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tbps_cli.losses.contrastive import check_sizes, unit

EPSILON = 1e-8
"""Added to the positives' share before the logarithm: it caps the loss at 18.4 and its gradient with it."""
_EXCLUDED = -1e9
"""Score of an excluded entry: its weight in a softmax is 0. Finite, so that a row of nothing else has no gradient."""


def memory_scores(x_BE: Tensor, memory_ME: Tensor, temperature: float) -> Tensor:
    """Cosines with every remembered vector over the temperature, [B, M] float32; 0 where nothing is remembered."""
    return unit(x_BE) @ memory_ME.detach().float().T / temperature


def memory_identity(x_BE: Tensor, memory_CE: Tensor, person_B: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of finding one's own person among all remembered ones, the batch mean in nats, a scalar.

    x_BE: embeddings of any length; memory_CE: unit rows (zeros where nothing is remembered) of the other modality, one
    a person. temperature: divides the cosines. Raises ValueError when batch sizes differ. Source: ECCL's released code.
    """
    check_sizes(x_BE, person_B)
    return F.cross_entropy(memory_scores(x_BE, memory_CE, temperature), person_B)


def memory_contrast(
    x_BE: Tensor, memory_ME: Tensor, person_B: Tensor, person_M: Tensor, *, temperature: float
) -> Tensor:
    """-log of the share of a softmax over all remembered images that the person's own have, the batch mean, a scalar.

    All images of the person are positives, and their shares are summed inside the logarithm. x_BE: embeddings of any
    length; memory_ME: unit rows (or zeros) of the other modality, one an image; person_M: whose they are.
    A row without any positive costs -log 1e-8 and has no gradient. Raises ValueError when batch sizes differ.
    Source: ECCL's released code, which sums exponentials; a log-sum-exp gives the same and cannot overflow.
    """
    check_sizes(x_BE, person_B)
    score_BM = memory_scores(x_BE, memory_ME, temperature)
    own_BM = person_B[:, None] == person_M
    positive_B = score_BM.masked_fill(~own_BM, _EXCLUDED).logsumexp(1)
    return -((positive_B - score_BM.logsumexp(1)).exp() + EPSILON).log().mean()
