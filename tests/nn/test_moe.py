"""Mixtures of experts: the choice, the weights, what is collected, and companions in the batch."""

import pytest
import torch
from torch import nn

from tbps_cli.losses.balance import balance
from tbps_cli.nn.moe import ExpertMixture, collect_shares, rank_of, route


def mixture(experts=4, top_k=2, width=8) -> ExpertMixture:
    torch.manual_seed(0)
    return ExpertMixture(width, experts, top_k, lambda: nn.Linear(width, width))


def loop(mix: ExpertMixture, x_LD, context_D):
    """Token by token in float64, the chosen experts only. Returns (outputs, softmax rows, chosen rows)."""
    mix = mix.double()
    outs, chances, chosen = [], [], []
    for token in x_LD.double():
        own = mix.input_gate.weight @ token
        logit = ((1 - mix.alpha) * own + mix.alpha * (mix.task_gate.weight @ context_D.double())).tolist()
        best = sorted(range(len(logit)), key=lambda e: (-logit[e], e))[: mix.top_k]
        weight = torch.tensor([logit[e] for e in best], dtype=torch.float64).softmax(0)
        outs.append(sum(w * mix.experts[e](token) for w, e in zip(weight, best, strict=True)))
        chances.append(torch.tensor(logit, dtype=torch.float64).softmax(0))
        chosen.append(torch.tensor([float(e in best) for e in range(len(logit))], dtype=torch.float64))
    return torch.stack(outs), torch.stack(chances), torch.stack(chosen)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@torch.no_grad()
def test_a_mixture_equals_the_loop_over_tokens(top_k):
    mix = mixture(top_k=top_k)
    x_BLD, context_D = torch.randn(3, 5, 8), torch.randn(8)
    with collect_shares(mix) as kept:
        found = mix(x_BLD, context_D)
    outs, chances, chosen = loop(mix, x_BLD.flatten(0, 1), context_D)
    assert (found.flatten(0, 1) - outs).abs().max() < 1e-6
    expected = (chances.mean(0) * chosen.mean(0)).sum()
    assert abs(balance(torch.stack(kept, 1)) - expected) < 1e-6


def test_equal_logits_choose_the_lower_number():
    routing = route(torch.tensor([[[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]]), 2)
    assert routing.chosen.tolist() == [[[0, 1, 1, 0], [1, 1, 0, 0]]]
    assert routing.weight.tolist() == [[[0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0]]]
    assert rank_of(torch.tensor([3.0, 1.0, 3.0])).tolist() == [0, 2, 1]


def test_the_balance_of_joined_chunks_is_that_of_the_whole_batch():
    mix = mixture()
    x_BLD, context_D = torch.randn(6, 5, 8), torch.randn(8)
    with collect_shares(mix) as kept:
        mix(x_BLD, context_D)
        mix(x_BLD[:4], context_D)
        mix(x_BLD[4:], context_D)
    whole, first, second = kept
    assert torch.allclose(torch.cat([first, second]), whole, atol=1e-6)
    assert abs(balance(torch.cat([first, second])[:, None]) - balance(whole[:, None])) < 1e-6
    mix(x_BLD, context_D)
    assert len(kept) == 3, "a closed collection still grows"


def test_balance_is_least_when_experts_share_the_tokens_evenly():
    even = torch.full((2, 3, 2, 4), 0.25)
    even[:, :, 1] = 0.5
    one_sided = torch.zeros(2, 3, 2, 4)
    one_sided[:, :, 0, :2], one_sided[:, :, 1, :2] = 0.5, 1.0
    assert balance(even).item() == pytest.approx(3 * 2 / 4)
    assert balance(one_sided).item() == pytest.approx(3.0)


def test_only_chosen_experts_and_both_gates_get_gradients():
    mix = mixture(experts=3, top_k=1)
    with torch.no_grad():
        mix.input_gate.weight.zero_()
        mix.task_gate.weight.zero_()[1] = 1.0
    mix(torch.randn(2, 4, 8), torch.ones(8)).sum().backward()
    used = [expert.weight.grad.abs().max().item() > 0 for expert in mix.experts]
    assert used == [False, True, False]


@pytest.mark.parametrize("top_k", [0, 5])
def test_more_experts_than_there_are_cannot_be_chosen(top_k):
    with pytest.raises(ValueError, match="top_k"):
        mixture(top_k=top_k)
