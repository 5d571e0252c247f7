"""The losses of TextReID against plain loops in float64, and what a queue lets through."""

import math

import pytest
import torch

from tbps_cli.losses.identity import smoothed_identity
from tbps_cli.losses.matching import alignment
from tbps_cli.losses.queue import queue_contrast, queue_scores, usable_negatives

DRAWS = torch.Generator().manual_seed(0)
IMAGE, TEXT = torch.randn(5, 4, generator=DRAWS), torch.randn(5, 4, generator=DRAWS)
QUEUE = torch.nn.functional.normalize(torch.randn(4, 7, generator=DRAWS), dim=0)
PERSON = torch.tensor([3, 3, 0, 8, 1])
QUEUED = torch.tensor([-1, 3, 9, 9, 0, 5, -1])


def cosine(one, other):
    return (
        sum(a * b for a, b in zip(one, other, strict=True))
        / math.sqrt(sum(a * a for a in one))
        / math.sqrt(sum(b * b for b in other))
    )


def log_share(scores, place):
    return scores[place] - math.log(sum(math.exp(score) for score in scores))


def test_contrast_equals_the_loop_over_queued_strangers():
    total = 0.0
    for query, key in zip(IMAGE.tolist(), TEXT.tolist(), strict=True):
        others = [QUEUE[:, column].tolist() for column in (0, 2, 3, 5, 6)]
        total -= log_share([cosine(query, other) / 0.5 for other in [key, *others]], 0)
    ours = queue_contrast(IMAGE, TEXT, QUEUE, usable_negatives(QUEUED, PERSON), temperature=0.5)
    assert abs(ours.item() - total / 5) < 1e-5


def test_strangers_are_persons_outside_the_batch_and_places_never_filled():
    assert usable_negatives(QUEUED, PERSON).tolist() == [True, False, True, True, False, True, True]


def test_a_queue_of_acquaintances_leaves_nothing_to_tell_apart():
    nobody = torch.zeros(7, dtype=torch.bool)
    query = IMAGE.clone().requires_grad_()
    loss = queue_contrast(query, TEXT, QUEUE, nobody, temperature=0.07)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.isfinite(query.grad).all()


def test_scores_are_cosines():
    own, queued = queue_scores(3 * IMAGE, TEXT, QUEUE)
    assert own.shape == (5, 1) and queued.shape == (5, 7)
    assert abs(own[1, 0] - cosine(IMAGE[1].tolist(), TEXT[1].tolist())) < 1e-6


def test_alignment_equals_the_loop_over_pairs():
    total = 0.0
    for i, image in enumerate(IMAGE.tolist()):
        for j, text in enumerate(TEXT.tolist()):
            score = cosine(image, text)
            same = PERSON[i] == PERSON[j]
            total += math.log1p(math.exp(-10 * (score - 0.6))) if same else math.log1p(math.exp(40 * (score - 0.4)))
    assert alignment(IMAGE, TEXT, PERSON).item() == pytest.approx(2 * total / 5, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smoothed_identity_equals_the_loop_over_persons(smoothing):
    person, total = [3, 3, 0, 2, 1], 0.0
    for logits in (IMAGE.tolist(), TEXT.tolist()):
        for row, own in zip(logits, person, strict=True):
            target = [smoothing / 4 + (1 - smoothing) * (number == own) for number in range(4)]
            total -= sum(share * log_share(row, number) for number, share in enumerate(target)) / 5
    ours = smoothed_identity(IMAGE, TEXT, torch.tensor(person), smoothing=smoothing)
    assert ours.item() == pytest.approx(total, rel=1e-6)


def test_batches_of_two_sizes_are_refused():
    for call in (lambda: alignment(IMAGE, TEXT[:3], PERSON), lambda: queue_scores(IMAGE, TEXT[:3], QUEUE)):
        with pytest.raises(ValueError, match="one batch has one size"):
            call()
