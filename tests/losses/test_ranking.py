"""RDE's costs of single pairs against slow loops in float64, and where they could break."""

import math

import pytest
import support.oracles_losses as oracles
import torch

from tbps_cli.losses import ranking
from tbps_cli.losses.contrastive import itc, sdm

DRAWS = torch.Generator().manual_seed(0)
IMAGE, TEXT = (torch.randn(6, 8, generator=DRAWS) for _ in range(2))
PERSON = torch.tensor([0, 1, 0, 2, 3, 1])


def triplet_loop(tau, margin, soft):
    """Each pair's cost in both directions, by the formula, in Python's own floats."""
    score = oracles.products(oracles.unit(TEXT.tolist()), oracles.unit(IMAGE.tolist()))
    persons, costs = PERSON.tolist(), [0.0] * len(PERSON)
    for matrix in (score, oracles.transposed(score)):
        for i, row in enumerate(matrix):
            same = [persons[j] == persons[i] for j in range(len(row))]
            weights = [math.exp(s / tau) if match else 0.0 for s, match in zip(row, same, strict=True)]
            positive = sum(w * s for w, s in zip(weights, row, strict=True)) / sum(weights)
            others = [s for s, match in zip(row, same, strict=True) if not match]
            negative = tau * math.log(sum(math.exp(s / tau) for s in others)) if soft else max(0.0, *others)
            costs[i] += max(0.0, margin - positive + negative)
    return costs


@pytest.mark.parametrize(("tau", "margin"), [(0.015, 0.1), (0.2, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("name", ["tal", "trl"])
def test_the_triplet_costs_equal_the_loop_over_pairs(name, tau, margin):
    ours = getattr(ranking, name)(3 * IMAGE, 0.1 * TEXT, PERSON, tau=tau, margin=margin)
    assert ours.tolist() == pytest.approx(triplet_loop(tau, margin, name == "tal"), abs=2e-6)


def test_the_mean_of_the_softmax_costs_is_the_batch_loss():
    assert ranking.pair_itc(IMAGE, TEXT, PERSON).mean().item() == pytest.approx(
        itc(IMAGE, TEXT, temperature=0.02).item(), rel=1e-6
    )
    assert ranking.pair_sdm(IMAGE, TEXT, PERSON).mean().item() == pytest.approx(
        sdm(IMAGE, TEXT, PERSON, temperature=0.02).item(), rel=1e-6
    )


@pytest.mark.parametrize("name", ["tal", "trl"])
def test_a_batch_of_one_person_costs_nothing_and_has_a_gradient_of_zero(name):
    image = IMAGE.clone().requires_grad_()
    cost = getattr(ranking, name)(image, TEXT, torch.zeros(6, dtype=torch.int64), margin=0.0, tau=10.0)
    cost.sum().backward()
    # without negatives TAL is 0; TRL's hardest is 0, so only similarities below 0 cost
    assert torch.isfinite(image.grad).all()
    if name == "tal":
        assert cost.tolist() == [0.0] * 6 and not image.grad.any()


def test_a_temperature_at_which_exponentials_overflow_is_computed_all_the_same():
    cost = ranking.tal(IMAGE, IMAGE, torch.arange(6), tau=1e-3, margin=2.0)
    assert torch.isfinite(cost).all() and cost.min() > 0


def test_the_weights_of_the_positives_have_no_gradient():
    """Then the gradient of the cost by a positive's similarity is its weight: together -1 a direction."""
    score = torch.randn(6, 6, generator=DRAWS, requires_grad=True)
    match = PERSON[:, None] == PERSON[None, :]
    ranking._soft_positive(score, match, 0.5).sum().backward()
    assert (score.grad * match).sum(1).tolist() == pytest.approx([1.0] * 6, abs=1e-6)
    assert not (score.grad * ~match).any()


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        ranking.tal(IMAGE, TEXT[:5], PERSON)
