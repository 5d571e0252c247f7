"""Every loss against a loop over pairs in float64, and what each must not depend on."""

import math

import pytest
import support.oracles_losses as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.losses.contrastive import itc, sdm
from tbps_cli.losses.identity import accuracy, identity
from tbps_cli.losses.masked import caption_cost, caption_hits, per_word
from tbps_cli.losses.matching import cmpm

PERSON = torch.tensor([3, 1, 3, 2, 1, 3, 0])
IMAGE = torch.tensor([0, 1, 0, 2, 3, 4, 5])


def pair(seed: int = 0, size: int = 7, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=draws), torch.randn(size, width, generator=draws)


def assert_close(ours: torch.Tensor, slow: float) -> None:
    assert ours.ndim == 0
    assert abs(ours.item() - slow) <= 2e-6 * max(1, abs(slow)), f"{ours.item()} is not {slow}"


@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=1, max_size=6), st.sampled_from([0.02, 0.1, 1.0]))
@settings(max_examples=25, deadline=None)
def test_sdm_and_itc_and_cmpm_equal_the_loops_over_pairs(seed, persons, temperature):
    image, text = pair(seed, len(persons))
    person = torch.tensor(persons)
    lists = image.tolist(), text.tolist()
    assert_close(sdm(image, text, person, temperature=temperature), oracle.sdm(*lists, persons, temperature))
    assert_close(itc(image, text, temperature=temperature), oracle.itc(*lists, temperature))
    assert_close(cmpm(image, text, person), oracle.cmpm(*lists, persons))


def test_sdm_with_image_numbers_equals_the_loop_over_pairs():
    image, text = pair()
    ours = sdm(image, text, PERSON, temperature=0.02, image_B=IMAGE)
    assert_close(ours, oracle.sdm(image.tolist(), text.tolist(), PERSON.tolist(), 0.02, IMAGE.tolist()))


@pytest.mark.parametrize("loss", [lambda *x: sdm(*x, PERSON, temperature=0.02), lambda *x: itc(*x, temperature=0.02)])
def test_losses_of_cosines_do_not_see_the_length_of_embeddings(loss):
    image, text = pair()
    lengths = torch.arange(1.0, 8)[:, None]
    assert torch.allclose(loss(image, text), loss(image * lengths, text / lengths), rtol=1e-6)


def test_sdm_does_not_depend_on_the_order_of_the_batch():
    image, text = pair()
    order = torch.tensor([4, 2, 6, 0, 1, 3, 5])
    shuffled = sdm(image[order], text[order], PERSON[order], temperature=0.02)
    assert torch.allclose(shuffled, sdm(image, text, PERSON, temperature=0.02), rtol=1e-6)


def test_a_perfect_batch_costs_nothing():
    corners = torch.eye(7)
    person = torch.arange(7)
    assert abs(sdm(corners, corners, person, temperature=0.01).item()) < 1e-6
    assert abs(itc(corners, corners, temperature=0.01).item()) < 1e-6


def test_sdm_gives_finite_gradients_at_a_temperature_of_one_two_hundredth():
    image, text = (tensor.half().requires_grad_() for tensor in pair())
    loss = sdm(image, text, PERSON, temperature=0.005)
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert torch.isfinite(image.grad).all() and torch.isfinite(text.grad).all()


@pytest.mark.parametrize("loss", [lambda i, t, p: sdm(i, t, p, temperature=1.0), cmpm])
def test_a_batch_of_two_sizes_is_refused_with_the_sizes(loss):
    image, text = pair()
    with pytest.raises(ValueError, match=r"\[7, 7, 6\]"):
        loss(image, text, PERSON[:6])
    with pytest.raises(ValueError, match=r"\[7, 5"):
        loss(image, text[:5], PERSON)


def test_identity_equals_the_mean_of_both_cross_entropies():
    image, text = pair(width=4)
    slow = (oracle.cross_entropy(image.tolist(), PERSON) + oracle.cross_entropy(text.tolist(), PERSON)) / 2
    assert_close(identity(image, text, PERSON), slow)


def test_accuracy_is_the_share_of_rows_whose_best_score_is_right():
    assert accuracy(
        torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0, 0])
    ).item() == pytest.approx(2 / 3)


def masked_case() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    score_BTV = torch.randn(4, 6, 9, generator=draws)
    label_BT = torch.tensor([[0, 3, 0, 8, 0, 1], [0, 0, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0], [5, 5, 5, 5, 5, 5]])
    return score_BTV, label_BT


def test_masked_words_equal_the_loop_over_labels():
    score_BTV, label_BT = masked_case()
    place = label_BT != 0
    cost_B = caption_cost(score_BTV[place], label_BT[place], place.nonzero()[:, 0], 4)
    assert cost_B[2] == 0
    assert_close(per_word(cost_B, label_BT), oracle.masked(score_BTV.tolist(), label_BT.tolist()))


def test_masked_words_joined_from_chunks_equal_the_whole_batch():
    score_BTV, label_BT = masked_case()
    costs = []
    for rows in (slice(0, 1), slice(1, 4)):
        place = label_BT[rows] != 0
        costs.append(caption_cost(score_BTV[rows][place], label_BT[rows][place], place.nonzero()[:, 0], len(place)))
    assert_close(per_word(torch.cat(costs), label_BT), oracle.masked(score_BTV.tolist(), label_BT.tolist()))


def test_hits_count_the_right_guesses_of_each_caption():
    score_NV = torch.eye(4)[[0, 1, 2, 3, 3]]
    hits = caption_hits(score_NV, torch.tensor([0, 1, 0, 3, 3]), torch.tensor([0, 0, 1, 2, 2]), 4)
    assert hits.tolist() == [2, 0, 2, 0]


def test_a_batch_without_masked_words_costs_nothing():
    empty = caption_cost(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2)
    assert per_word(empty, torch.zeros(2, 6, dtype=torch.long)).item() == 0
