"""Attention of rows of tokens: PyTorch's fused kernel, or products written out where that is the faster way.

The exception is bfloat16 on a CPU, where PyTorch's fused kernel is slower than in float32, backwards above all. There
each product is one call, which the processor does in bfloat16: half the time of the kernel with 193 tokens, a quarter
with 77. Scores and softmax stay float32, as inside the kernel, so that the result is as near to the exact one.
Probabilities are kept for the backward pass, in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def row_attention(
    query_BHLK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    *,
    causal: bool = False,
    seen: Tensor | None = None,
) -> Tensor:
    """What the tokens of `query` attend to, [B, H, L, K]; scores are scaled by K ** -0.5.

    causal: a token attends to itself and to those before it. seen: bool, to be spread over [B, H, L, S]: which tokens
    are attended to.
    """
    given = query_BHLK, key_BHSK, value_BHSK
    half = any(x.dtype == torch.bfloat16 for x in given) and query_BHLK.device.type == "cpu"
    if half and not torch.compiler.is_compiling():
        # thin matrices beside a projection leave some in float32; autocast would narrow these for the kernel too
        narrow = (x.to(torch.bfloat16) for x in given)
        attended: Tensor = _WrittenOut.apply(*narrow, causal, seen)  # type: ignore[no-untyped-call]
        return attended
    return F.scaled_dot_product_attention(query_BHLK, key_BHSK, value_BHSK, attn_mask=seen, is_causal=causal)


class _WrittenOut(torch.autograd.Function):
    """Attention as six products; N = B * H rows at a time."""

    @staticmethod
    def forward(
        ctx: Any, query_BHLK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, causal: bool, seen: Tensor | None
    ) -> Tensor:
        query, key, value = (x.flatten(0, 1) for x in (query_BHLK, key_BHSK, value_BHSK))
        score_NLS = _scaled(query.float(), key.float().transpose(1, 2), query.shape[-1] ** -0.5)
        if causal:
            score_NLS.masked_fill_(torch.ones(score_NLS.shape[1:], dtype=torch.bool).triu(1), float("-inf"))
        if seen is not None:
            score_NLS.view(*query_BHLK.shape[:3], -1).masked_fill_(~seen, float("-inf"))
        share_NLS = score_NLS.softmax(-1).to(value.dtype)
        ctx.save_for_backward(query, key, value, share_NLS)
        return (share_NLS @ value).view(query_BHLK.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, share_NLS = ctx.saved_tensors
        heads = gradients[0].shape[:2]
        gradient_NLK = gradients[0].flatten(0, 1)
        share_gradient_NLS = gradient_NLK @ value.transpose(1, 2)
        score_NLS = torch._softmax_backward_data(share_gradient_NLS, share_NLS, -1, share_NLS.dtype)
        scale = query.shape[-1] ** -0.5
        parts = (
            _scaled(score_NLS, key, scale),
            _scaled(score_NLS.transpose(1, 2), query, scale),
            share_NLS.transpose(1, 2) @ gradient_NLK,
        )
        return (*(part.unflatten(0, heads) for part in parts), None, None)


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """`scale` times the products of two batches of matrices, in one call."""
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)
