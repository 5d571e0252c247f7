"""Captions pass in groups of similar length, and nobody can tell."""

import pytest
import torch

from tbps_cli.nn.clip import Clip
from tbps_cli.nn.features import caption_end, text_feature
from tbps_cli.nn.sizes import Tower

SIZES = Tower(patch=8, width=16, layers=1, embed=8, text_width=16, text_layers=2, heads=2, text_heads=2)


def made(dropout=0.0):
    clip = Clip(SIZES, (16, 8), text_dropout=dropout)
    clip.initialise(torch.Generator().manual_seed(0))
    return clip


def captions(rows, seed=0):
    draw = torch.Generator().manual_seed(seed)
    token_BT = torch.zeros(rows, 77, dtype=torch.int64)
    for row, length in enumerate(torch.randint(3, 75, (rows,), generator=draw).tolist()):
        token_BT[row, :length] = torch.randint(1, 49000, (length,), generator=draw)
        token_BT[row, length] = 49407
    return token_BT


def passes(clip, token_BT):
    """The shapes that went through the tower, and the features."""
    shapes = []
    hook = clip.transformer.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape[:2])))
    try:
        return shapes, text_feature(clip, token_BT)
    finally:
        hook.remove()


@pytest.mark.parametrize("rows", [1, 7, 16, 33, 70])
def test_groups_of_captions_give_the_features_and_gradients_of_the_whole_width(rows):
    one, two, token_BT = made(), made(), captions(rows)
    whole_BE = torch.stack([caption_end(one, row[None])[0] for row in token_BT])
    shapes, found_BE = passes(two, token_BT)
    assert len(shapes) == max(1, min(4, rows // 8)) and sum(rows for rows, _ in shapes) == rows
    assert (found_BE - whole_BE).abs().max() < 1e-5
    weight_BE = torch.randn(whole_BE.shape, generator=torch.Generator().manual_seed(1))
    for value in (whole_BE, found_BE):
        (value * weight_BE).sum().backward()
    for (name, expected), parameter in zip(one.named_parameters(), two.parameters(), strict=True):
        if expected.grad is not None:
            assert (parameter.grad - expected.grad).abs().max() <= 1e-5 * expected.grad.abs().max(), name


def test_short_captions_do_not_pay_for_a_long_one():
    token_BT = captions(32)
    token_BT[1:, 10:], token_BT[1:, 9] = 0, 49407
    shapes, _ = passes(made(), token_BT)
    assert [width for _, width in shapes[:-1]] == [10, 10, 10]


def test_a_batch_with_random_draws_is_not_cut():
    assert len(passes(made(0.1).train(), captions(32))[0]) == 1
    assert len(passes(made(0.1).eval(), captions(32))[0]) == 4


def test_blocks_that_may_look_at_other_rows_are_not_cut():
    clip = made()
    clip.transformer.resblocks[1].__class__ = type("Own", (type(clip.transformer.resblocks[0]),), {})
    assert len(passes(clip, captions(32))[0]) == 1
