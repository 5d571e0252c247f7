"""TBPS-CLIP's losses against slow loops, and what they do and do not look at."""

import pytest
import support.oracles_losses as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbps_cli.losses.contrastive import citc, hard_targets, itc, nitc, ritc, unit
from tbps_cli.losses.views import simclr


def drawn(seed: int, size: int, count: int = 3) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 5, generator=draws) for _ in range(count)]


def assert_close(ours: torch.Tensor, slow: float) -> None:
    assert ours.ndim == 0 and ours.dtype == torch.float32
    assert abs(ours.item() - slow) <= 3e-6 * max(1, abs(slow)), f"{ours.item()} is not {slow}"


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 3), min_size=2, max_size=6),
    st.sampled_from([1.0, 18.0, 100.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_three_contrastive_losses_and_simclr_equal_their_loops(seed, persons, scale, softness):
    image, text, again = drawn(seed, len(persons))
    person = torch.tensor(persons)
    lists = image.tolist(), text.tolist()
    soft = nitc(image, text, person, scale=scale, softness=softness, soft_text_BE=again)
    assert_close(soft, oracle.nitc(*lists, persons, scale, softness, again.tolist()))
    assert_close(ritc(image, text, person, scale=scale), oracle.ritc(*lists, persons, scale, 1e-2))
    assert_close(citc(image, text, within=0.3, across=0.7), oracle.citc(*lists, 0.3, 0.7))
    assert_close(simclr(image, text, temperature=0.1), oracle.simclr(*lists, 0.1))


def test_without_soft_labels_and_namesakes_nitc_is_clips_own_loss():
    image, text, _ = drawn(0, 6)
    assert torch.allclose(nitc(image, text, torch.arange(6), scale=20.0), itc(image, text, temperature=1 / 20))


def test_soft_targets_are_constants_so_that_a_model_that_agrees_with_them_is_left_alone():
    image, text, _ = drawn(1, 6)
    person, scale = torch.tensor([0, 1, 1, 2, 3, 0]), torch.tensor(9.0, requires_grad=True)
    (own,) = torch.autograd.grad(nitc(image, text, person, scale=scale, softness=1.0), scale)
    (hard,) = torch.autograd.grad(nitc(image, text, person, scale=scale, softness=0.0), scale)
    score_BB = unit(image) @ unit(text).T * scale
    (entropy,) = torch.autograd.grad(-(score_BB.softmax(1) * score_BB.log_softmax(1)).sum(1).mean(), scale)
    assert own.abs() < 1e-6, "a gradient through the targets would be that of the entropy"
    assert entropy.abs() > 1e-2 and hard.abs() > 1e-2


def test_hard_targets_share_a_row_among_the_captions_of_the_person():
    found = hard_targets(torch.tensor([4, 2, 4, 4]))
    third = 1 / 3
    expected = torch.tensor(
        [[third, 0, third, third], [0, 1, 0, 0], [third, 0, third, third], [third, 0, third, third]]
    )
    assert torch.allclose(found, expected)


def test_the_cyclic_loss_is_nothing_for_captions_that_lie_where_their_images_do():
    image, text, _ = drawn(2, 5)
    assert citc(image, image).item() < 1e-12
    assert citc(image, text).item() > 0.01
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))[0]
    assert citc(image, image @ turn, within=1, across=0).item() < 1e-10, "a common turn keeps inner cosines"


def test_in_simclr_an_image_is_no_wrong_answer_to_itself():
    corners = torch.eye(6)
    assert simclr(corners, corners, temperature=0.01).item() < 1e-6
    assert simclr(corners[:1], corners[:1]).item() == 0


def test_another_image_of_the_same_kind_counts_as_wrong_in_simclr():
    view = torch.ones(2, 4)
    assert simclr(view, view).item() == pytest.approx(torch.log(torch.tensor(3.0)).item())


@pytest.mark.parametrize(
    "loss",
    [
        lambda image, text, person: nitc(image, text, person, scale=1.0),
        lambda image, text, person: ritc(image, text, person, scale=1.0),
        lambda image, text, person: citc(image, text),
        lambda image, text, person: simclr(image, text),
    ],
)
def test_batches_of_two_sizes_are_refused(loss):
    image, text, _ = drawn(0, 4)
    with pytest.raises(ValueError, match="one batch has one size"):
        loss(image, text[:3], torch.arange(4))
