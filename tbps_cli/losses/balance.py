"""Load balance of mixtures of experts: a loss that keeps every expert in use, and figures that show it."""

from __future__ import annotations

from torch import Tensor


def balance(share_BM2X: Tensor) -> Tensor:
    """Product of how likely and how often an expert is chosen, summed over experts and mixtures.

    share_BM2X: per item, of M mixtures with X experts each, the means over the item's tokens of the
    gate's softmax (index 0) and of the choice (index 1), as `nn.moe.Routing.shares` gives them.
    Returns a scalar without unit: M * k / X in perfect balance, where k experts are chosen; only the
    softmax carries a gradient. Means are over the whole batch, so the rows may come from any chunks.
    Source: released codes of DM-Adapter, PHP and CoMoE (X times a mean over experts is this sum).
    """
    chance_MX, chosen_MX = share_BM2X.float().mean(0).unbind(1)
    return (chance_MX * chosen_MX.detach()).sum()


def use_of_experts(share_BM2X: Tensor) -> dict[str, float]:
    """Shares of all tokens that the busiest and the idlest expert of any mixture get, for the log.

    Nothing else shows a collapsed mixture: its loss is bounded and small beside the others.
    """
    chosen_MX = share_BM2X[:, :, 1].float().mean(0)
    return {"busiest_expert": chosen_MX.max().item(), "idlest_expert": chosen_MX.min().item()}
