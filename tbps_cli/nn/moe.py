"""Mixtures of small experts over tokens: a gate chooses a few experts for each token.

The gate of DM-Adapter, PHP and CoMoE: logits of the token, mixed with the logits of a learned context
vector that is the same for all tokens. The chosen experts' outputs are summed, weighted by a softmax
over the chosen logits alone; nothing is dropped, no noise is added. Every expert sees every token and
the others weigh 0: experts are small, and neither the result nor the graph of an export then depends
on the rest of the batch. Between equal logits the lower number wins, which the released codes leave open.
Parameter names are those of the released codes (`feed_forward.*` in a block).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

INPUT_GATE = "input_gate"
"""The token gate's name where a mixture has one for all tokens."""


class Routing(NamedTuple):
    """Where the tokens of [B, L] go among X experts; all [B, L, X] float32."""

    weight: Tensor
    """Softmax over the chosen logits, 0 for the others."""
    probability: Tensor
    """Softmax over all logits."""
    chosen: Tensor
    """1 for the chosen experts, else 0; no gradient."""

    def shares(self, counted_BL: Tensor | None = None) -> Tensor:
        """Per item, the means over its tokens of probability and chosen: [B, 2, X].

        Means over a batch are means of these rows (all items have L tokens), so chunks and ranks can
        be joined before `losses.balance` looks at them. counted: true where a token counts; without
        it all do. Items with fewer tokens than others then weigh as much.
        """
        both_B2LX = torch.stack([self.probability, self.chosen], 1)
        if counted_BL is None:
            return both_B2LX.mean(2)
        part_BL = counted_BL / counted_BL.sum(1, keepdim=True)
        return torch.einsum("bl,bklx->bkx", part_BL, both_B2LX)


def route(logit_BLX: Tensor, top_k: int) -> Routing:
    """Route every token to the experts of its `top_k` largest logits; ties go to the lower number."""
    logit_BLX = logit_BLX.float()
    chosen_BLX = rank_of(logit_BLX.detach()) < top_k
    weight_BLX = logit_BLX.masked_fill(~chosen_BLX, float("-inf")).softmax(-1)
    return Routing(weight_BLX, logit_BLX.softmax(-1), chosen_BLX.float())


def rank_of(logit_X: Tensor) -> Tensor:
    """The rank of each expert, [..., X]: 0 for the largest logit.

    By comparing all pairs: X is small, and unlike a sort the order of equal logits is certain.
    """
    own, other = logit_X[..., :, None], logit_X[..., None, :]
    number = torch.arange(logit_X.shape[-1], device=logit_X.device)
    return ((other > own) | ((other == own) & (number < number[:, None]))).sum(-1)


class ExpertMixture(nn.Module):
    """[B, L, D] tokens -> the weighted sum of `top_k` of `num_experts` modules made by `expert()`.

    gates: names of the token gates; a caller with several says at each call which one. alpha, learned
    and not clamped, mixes the token's logits with the context's.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        top_k: int,
        expert: Callable[[], nn.Module],
        gates: Sequence[str] = (INPUT_GATE,),
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k is {top_k}, it must be 1 to {num_experts}, the number of experts")
        self.top_k = top_k
        self.alpha = nn.Parameter(torch.tensor(0.5))
        for gate in gates:
            self.add_module(gate, nn.Linear(width, num_experts, bias=False))
        self.task_gate = nn.Linear(width, num_experts, bias=False)
        self.experts = nn.ModuleList(expert() for _ in range(num_experts))
        self.on_routing: Callable[[Routing], None] | None = None

    def forward(self, x_BLD: Tensor, context_D: Tensor, gate: str = INPUT_GATE) -> Tensor:
        """context_D: the block's context vector, seen by the common gate. Returns [B, L, D]."""
        routing = route(self.logits(x_BLD, context_D, gate), self.top_k)
        if self.on_routing is not None:
            self.on_routing(routing)
        weight_XBL1 = routing.weight.to(x_BLD.dtype).movedim(-1, 0).unsqueeze(-1)
        mixed_BLD = weight_XBL1[0] * self.experts[0](x_BLD)
        for weight_BL1, expert in zip(weight_XBL1[1:], self.experts[1:], strict=True):
            mixed_BLD = mixed_BLD + weight_BL1 * expert(x_BLD)
        return mixed_BLD

    def logits(self, x_BLD: Tensor, context_D: Tensor, gate: str = INPUT_GATE) -> Tensor:
        """What tokens are routed by: (1 - alpha) * token gate + alpha * context gate, [B, L, X]."""
        token_BLX = self.get_submodule(gate)(x_BLD)
        return (1 - self.alpha) * token_BLX + self.alpha * self.task_gate(context_D.to(x_BLD.dtype))


@contextmanager
def collect_shares(root: nn.Module, counted_BL: Tensor | None = None) -> Iterator[list[Tensor]]:
    """While open, the list gets the shares [B, 2, X] of every mixture below `root`, in calling order.

    counted: the tokens that count, as `Routing.shares` takes them.
    """
    shares: list[Tensor] = []
    mixtures = [module for module in root.modules() if isinstance(module, ExpertMixture)]
    for mixture in mixtures:
        mixture.on_routing = lambda routing: shares.append(routing.shares(counted_BL))
    try:
        yield shares
    finally:
        # a checkpointed block runs again in the backward pass: nothing may be collected twice
        for mixture in mixtures:
            mixture.on_routing = None
