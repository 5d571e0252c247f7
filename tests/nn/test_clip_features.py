"""Captions pass without the padding between them, and nobody can tell."""

import pytest
import torch

from tbps_cli.nn.clip_features import text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import Tower
from tbps_cli.nn.text_tower import at_end
from tbps_cli.nn.token_layout import pack

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


def tokens_of(clip, token_BT):
    """How many tokens each block's MLP saw, and the features."""
    seen = []
    hooks = [
        block.mlp.register_forward_hook(lambda _, given, made: seen.append(made.shape[:-1].numel()))
        for block in clip.transformer.resblocks
    ]
    try:
        return seen, text_feature(clip, token_BT)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_packed_captions_give_the_features_and_gradients_of_each_alone(rows, checkpointing):
    one, two, token_BT = made(), made(), captions(rows)
    two.transformer.checkpointing = checkpointing
    whole_BE = torch.stack([at_end(one.text_tokens(row[None]), row[None])[0] for row in token_BT])
    found_BE = text_feature(two, token_BT)
    assert (found_BE - whole_BE).abs().max() < 1e-5
    weight_BE = torch.randn(whole_BE.shape, generator=torch.Generator().manual_seed(1))
    for value in (whole_BE, found_BE):
        (value * weight_BE).sum().backward()
    for (name, expected), parameter in zip(one.named_parameters(), two.parameters(), strict=True):
        if expected.grad is not None:
            assert (parameter.grad - expected.grad).abs().max() <= 1e-5 * expected.grad.abs().max(), name


def test_nothing_but_words_is_computed_and_of_the_last_block_the_ends_alone():
    token_BT = captions(32)
    seen, _ = tokens_of(made(), token_BT)
    assert seen == [int((token_BT.argmax(1) + 1).sum()), 32]


def test_packing_and_spreading_are_each_others_inverse():
    packed = pack(torch.tensor([2, 0, 4]))
    x_ND = torch.randn(9, 3)
    spread_BTD = packed.rows(x_ND)
    assert spread_BTD.shape == (3, 5, 3) and torch.equal(packed.gather(spread_BTD), x_ND)
    assert not spread_BTD[~packed.real_BT].any() and packed.last_B.tolist() == [2, 3, 8]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_packs_too(precision):
    clip, token_BT = made(), captions(9)
    with torch.autocast("cpu", dtype=precision):
        half = text_feature(clip, token_BT)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, text_feature(clip, token_BT)).min() > 0.999


def test_a_batch_with_random_draws_is_not_packed():
    token_BT = captions(32)
    width = 32 * int(token_BT.argmax(1).max() + 1)
    assert tokens_of(made(0.1).train(), token_BT)[0] == [width, width]
    assert tokens_of(made(0.1).eval(), token_BT)[0] == [int((token_BT.argmax(1) + 1).sum()), 32]


def test_blocks_that_may_look_at_other_tokens_are_not_packed():
    clip, token_BT = made(), captions(32)
    clip.transformer.resblocks[0].token_wise = False
    assert tokens_of(clip, token_BT)[0] == [32 * int(token_BT.argmax(1).max() + 1), 32]
