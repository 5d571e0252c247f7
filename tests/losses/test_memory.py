"""Losses against a memory: equal to slow loops in float64, which side they move, and their edges."""

import math

import pytest
import torch

from tbps_cli.losses.memory import memory_contrast, memory_identity


def given(pairs=5, rows=9, width=6, seed=0):
    """Embeddings of any length, unit rows of a memory with an empty one, and whose they are."""
    draws = torch.Generator().manual_seed(seed)
    x_BE = 3 * torch.randn(pairs, width, generator=draws)
    memory_ME = torch.nn.functional.normalize(torch.randn(rows, width, generator=draws), dim=1)
    memory_ME[2] = 0
    return x_BE, memory_ME, torch.randint(0, 4, (pairs,), generator=draws), torch.arange(rows) % 4


def cosines(x_BE, memory_ME):
    """By loops, as lists of Python floats: double precision."""
    found = []
    for x in x_BE.tolist():
        length = math.sqrt(sum(value * value for value in x))
        found.append(
            [sum(one * other for one, other in zip(x, row, strict=True)) / length for row in memory_ME.tolist()]
        )
    return found


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_finding_the_person_is_the_cross_entropy_over_all_persons(temperature):
    x_BE, memory_CE, person_B, _ = given()
    costs = []
    for row, person in zip(cosines(x_BE, memory_CE), person_B.tolist(), strict=True):
        total = sum(math.exp(cosine / temperature) for cosine in row)
        costs.append(-math.log(math.exp(row[person] / temperature) / total))
    ours = memory_identity(x_BE, memory_CE, person_B, temperature=temperature)
    assert ours.item() == pytest.approx(sum(costs) / len(costs), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.015, 1.0])
def test_all_images_of_the_person_are_positives_inside_the_logarithm(temperature):
    x_BE, memory_ME, person_B, person_M = given(seed=1)
    costs = []
    for row, person in zip(cosines(x_BE, memory_ME), person_B.tolist(), strict=True):
        powers = [math.exp(cosine / temperature) for cosine in row]
        own = sum(power for power, whose in zip(powers, person_M.tolist(), strict=True) if whose == person)
        costs.append(-math.log(own / sum(powers) + 1e-8))
    ours = memory_contrast(x_BE, memory_ME, person_B, person_M, temperature=temperature)
    assert ours.item() == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_the_gradient_moves_the_embeddings_alone():
    x_BE, memory_ME, person_B, person_M = given()
    x_BE.requires_grad_()
    memory_ME.requires_grad_()
    loss = memory_identity(x_BE, memory_ME, person_B, temperature=0.1)
    loss = loss + memory_contrast(x_BE, memory_ME, person_B, person_M, temperature=0.1)
    loss.backward()
    assert memory_ME.grad is None and x_BE.grad.abs().sum() > 0


def test_a_person_without_any_image_costs_what_the_epsilon_allows_and_pulls_nowhere():
    x_BE, memory_ME, person_B, person_M = given()
    x_BE.requires_grad_()
    loss = memory_contrast(x_BE, memory_ME, torch.full_like(person_B, 7), person_M, temperature=0.015)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-5)
    assert torch.equal(x_BE.grad, torch.zeros_like(x_BE))


def test_nothing_overflows_at_the_published_temperature():
    x_BE, memory_ME, person_B, person_M = given()
    memory_ME[0] = torch.nn.functional.normalize(x_BE[0], dim=0)
    loss = memory_contrast(x_BE, memory_ME, person_B, person_M, temperature=0.005)  # exp(200) is infinite in float32
    assert torch.isfinite(loss)


def test_batches_of_two_sizes_are_refused():
    x_BE, memory_ME, person_B, _ = given()
    with pytest.raises(ValueError, match="one batch has one size"):
        memory_identity(x_BE, memory_ME, person_B[:-1], temperature=1.0)
