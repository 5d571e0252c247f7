"""The training heads: what they compute and how they are drawn."""

import pytest
import torch
from torch import nn

from tbps_cli.nn.cross_modal import CrossModal
from tbps_cli.nn.heads import Classifier, WordHead
from tbps_cli.nn.precision import to_half


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_half_classifier_gives_float32_scores():
    classifier = to_half(Classifier(8, 3))
    assert classifier.weight.dtype == torch.float16
    assert classifier(torch.randn(2, 8)).dtype == torch.float32


def test_the_classifier_is_drawn_with_a_spread_of_a_thousandth():
    classifier = Classifier(256, 300)
    classifier.initialise(seeded())
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not classifier.bias.any()


def test_the_word_head_is_drawn_with_the_published_spreads():
    head = WordHead(256, 500, layers=4)
    head.initialise(seeded())
    assert head.dense.weight.std().item() == pytest.approx(512**-0.5, rel=0.02)
    assert head.fc.weight.std().item() == pytest.approx(256**-0.5 * 8**-0.5, rel=0.02)
    assert head.fc.bias.abs().max().item() <= 256**-0.5


def test_the_cross_modal_encoder_is_drawn_with_the_published_spreads():
    cross = CrossModal(256, 4, 4)
    cross.initialise(seeded())
    assert cross.cross_attn.in_proj_weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert cross.cross_attn.out_proj.weight.std().item() == pytest.approx(256**-0.5 * 8**-0.5, rel=0.02)


def test_there_is_no_residual_around_the_cross_attention():
    cross = CrossModal(64, 1, 1)
    nn.init.zeros_(cross.cross_attn.out_proj.weight)
    text, image = torch.randn(2, 5, 64), torch.randn(2, 7, 64)
    assert not cross.attend(text, image).any()
    assert cross(text, image).shape == (2, 5, 64)
