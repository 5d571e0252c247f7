"""Attention in bfloat16 on a CPU: about as near to the exact one as PyTorch's fused kernel, forwards and backwards."""

import pytest
import torch
from torch.nn import functional as F

from tbps_cli.nn.row_attention import row_attention

ENDS = torch.tensor([4, 9, 2])
CASES = {
    "all": (10, {}, {}),
    "causal": (10, {"causal": True}, {"is_causal": True}),
    "one of each row": (1, {"seen": (torch.arange(10) <= ENDS[:, None])[:, None, None]}, {}),
}


def drawn(queries: int) -> list[torch.Tensor]:
    """Query, key, value and a gradient; scores reach 10, where their rounding would show."""
    draw = torch.Generator().manual_seed(0)
    shapes = (queries, 10, 10, queries)
    made = [torch.randn(3, 4, length, 16, generator=draw).bfloat16() for length in shapes]
    return [4 * made[0], *made[1:]]


def outcome(attend, parts, dtype) -> list[torch.Tensor]:
    """The attended tokens and the three gradients."""
    leaves = [part.to(dtype, copy=True).requires_grad_() for part in parts[:3]]
    made = attend(*leaves)
    made.backward(parts[3].to(dtype))
    return [made.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_within_twice_the_rounding_of_the_fused_kernel(case) -> None:
    queries, ours, theirs = CASES[case]
    theirs = theirs or {"attn_mask": ours.get("seen")}
    parts = drawn(queries)
    exact = outcome(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **theirs), parts, torch.float64)
    fused = outcome(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **theirs), parts, torch.bfloat16)
    found = outcome(lambda q, k, v: row_attention(q, k, v, **ours), parts, torch.bfloat16)
    for one, other, true in zip(found, fused, exact, strict=True):
        assert one.dtype == torch.bfloat16 and one.shape == true.shape
        assert (one - true).norm() <= 2 * (other - true).norm() + 1e-3 * true.norm()
        assert (one - true).norm() <= 1e-2 * true.norm()


@pytest.mark.parametrize("case", CASES)
def test_float32_is_left_to_the_fused_kernel(case) -> None:
    queries, ours, theirs = CASES[case]
    query, key, value, _ = (part.float() for part in drawn(queries))
    theirs = theirs or {"attn_mask": ours.get("seen")}
    assert torch.equal(
        row_attention(query, key, value, **ours), F.scaled_dot_product_attention(query, key, value, **theirs)
    )
